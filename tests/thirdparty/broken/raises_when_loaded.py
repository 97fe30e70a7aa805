"""Cannot be loaded, whatever it would describe."""

raise SystemExit("the licence has expired")
