"""Counts files, lines of code and the longest functions of a package.

python benchmarks/count_code.py leukjax

Blank lines, comments and docstrings are not counted as code; they are in the length of a function.
"""

import ast
import sys
import tokenize
from pathlib import Path

LONGEST = 10  # functions that are listed
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def lines_of_code(file: Path) -> int:
    """Lines that hold a token of code which is no docstring."""
    lines: set[int] = set()
    with tokenize.open(file) as text:
        for token in tokenize.generate_tokens(text.readline):
            if token.type not in NO_CODE:
                lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                lines -= set(range(value.lineno, (value.end_lineno or value.lineno) + 1))
    return len(lines)


def functions(file: Path) -> list[tuple[int, str]]:
    """Length and place of every function, its docstring left out."""
    sizes = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            size -= len((ast.get_docstring(node, clean=False) or "").splitlines())
            sizes.append((size, f"{file}:{node.lineno} {node.name}"))
    return sizes


def main(folder: str = "leukjax") -> None:
    """Prints a line per package, the total, and the longest functions."""
    files = sorted(Path(folder).rglob("*.py"))
    packages: dict[str, list[int]] = {}
    for file in files:
        parts = file.relative_to(folder).parts
        packages.setdefault(parts[0] if len(parts) > 1 else "(top)", []).append(lines_of_code(file))
    for name, sizes in packages.items():
        print(f"{name:14} {len(sizes):4} files {sum(sizes):7,} lines")
    total = sum(map(sum, packages.values()))
    print(f"{folder:14} {len(files):4} files {total:7,} lines")
    longest = sorted((pair for file in files for pair in functions(file)), reverse=True)
    for size, place in longest[:LONGEST]:
        print(f"{size:5} lines {place}")


if __name__ == "__main__":
    main(*sys.argv[1:])
