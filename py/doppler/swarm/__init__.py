"""Models shared between peers: torrents of them, the tracker where peers meet, the native peer."""
