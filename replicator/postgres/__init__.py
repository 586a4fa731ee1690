"""All SQL, the replication protocol and psycopg: the layers above name none of them, and see only our own errors."""
