from gpt1.cli.main import main

main()
