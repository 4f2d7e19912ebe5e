"""Write the tables of names into the documents: `python docs/tables.py`. A test tells when they have to be written anew."""

from pathlib import Path

from nas.cli.kinds import filled

if __name__ == "__main__":
    for page in sorted(Path(__file__).parent.glob("*.md")):
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
