"""Development boards and the bitstream build."""
