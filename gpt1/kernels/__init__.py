"""Fast forms of what `model/` states plainly: one function a file, each tested against its plain form."""
