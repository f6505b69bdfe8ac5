"""Fast implementations of the equations of `model/`: one function per file, each tested against its plain form."""
