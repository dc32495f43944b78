"""What every room needs of the machine and its users: kept files, terminals, HTML, command-line options."""
