"""The way back: the old tables, made again from the new ones.

A row that came from an old one becomes exactly that one again; what the new application changed since then is carried
over as far as the old schema can say it. A row born in the new schema becomes a sensible old one.
"""

from transforms.reverse import admins, event_settings, requests, settings, spotify_auth

__all__ = ["admins", "event_settings", "requests", "settings", "spotify_auth"]
