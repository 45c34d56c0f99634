"""What a run will need, before it starts: memory, disk space, steps, hours; and `--fit`.

For `--dry-run`, which `medart doctor --data` calls, and for the line in which a run of a large base
says what it will take. Of the training it knows the options, the rows and how HLDF is planned.
"""
