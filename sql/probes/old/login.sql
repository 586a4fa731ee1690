-- An admin logs in.
SELECT id, password_hash, is_active FROM public.admins WHERE username = 'admin'
