from leakboard.cli import main

main()
