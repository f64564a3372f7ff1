from d2rkit.cli import main

main()
