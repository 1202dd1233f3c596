"""The device's end of the host link."""
