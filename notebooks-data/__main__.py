"""python3 notebooks-data FILE.h5 -o DIR. The program runs this file and report/ from a zip that is built into it."""
import sys

from report.main import main

sys.exit(main())
