"""What a node tells about itself: numbers (metrics.py) and logs (logs.py), each declared once."""
