SELECT id, password_hash, is_active FROM party.admins WHERE email = 'admin'
