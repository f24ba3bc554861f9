"""What people start: skins over the library."""
