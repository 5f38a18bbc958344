"""Recipe for the small model that clipzs carries with it (not part of the wheel)."""
