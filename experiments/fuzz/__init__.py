"""Which input makes a reader fail with anything but its one-line error? Looked for by atheris.

Not part of the tests: what was found is kept there as cases.
"""
