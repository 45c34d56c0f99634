"""Numbers as a reader wants them: never with a power of ten, and one thing has no s."""


def write_number(value: float, form: str = ".3g") -> str:
    """Write a number by a format, or whole where that had a power of ten: 118, not 1.2e+02."""
    text = f"{value:{form}}"
    return f"{value:{'+' if form[0] == '+' else ''}.0f}" if "e+" in text else text


def plural(number: int, one: str, many: str | None = None) -> str:
    """Write a number of things; several of them have an s unless they are named."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"
