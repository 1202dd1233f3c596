"""All measurements, one after the other (about ten minutes; everything is simulated)."""

from systolith.summary import terminal

from . import goals, steps, tools

if __name__ == "__main__":
    console = terminal()
    goals.main(console)
    steps.main(console)
    tools.main(console)
