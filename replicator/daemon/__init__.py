"""The daemon: its sessions, the requests that it answers, and what it reports."""
