"""Files to documents to passages: what each step of a build is given, and what it makes of it.

    python examples/01_read.py

Nothing is kept and no model is loaded.
"""

from pathlib import Path

from fieldstone import find_files, read_files, split_document

HARBOUR = Path(__file__).with_name("harbour")


def count_words(texts):
    """What a passage may hold is counted in an encoder's tokens; words do as well."""
    return [len(text.split()) for text in texts]


documents = []
for result in read_files(find_files(HARBOUR)):
    documents += result.documents
    if result.reason:
        print(f"not read: {result.source}: {result.reason}")

print(f"{len(documents)} documents, {sum(len(d.text) for d in documents):,} characters")
for document in documents[:5]:
    kind, pages = document.metadata["type"], len(document.pages) or "no"
    print(f"{document.source}: {document.title!r}, {kind}, {pages} pages, {len(document.headings)} headings")

document = next(d for d in documents if d.source == "cargo/dangerous-goods.pdf")
passages = list(split_document(document, count_words, tokens=120))
print(f"\n{document.source} in {len(passages)} passages; the first one:")
print(f"characters {passages[0].start} to {passages[0].end}, page {passages[0].page}")
print(passages[0].text)
assert all(document.text[p.start : p.end] == p.text for p in passages)
