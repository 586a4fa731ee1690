"""What the daemon shows of itself: metrics, status and the HTTP endpoints."""
