"""Measures Tidegate's detectors beside Presidio's pattern recognizers over the same labelled texts, by the same rule.

usage: presidio.py TIDEGATE SYNTH_JSON_GZ GITLEAKS_JSONL_GZ

A labelled value counts as found where finds of its kind cover every character of it; a find is wrong where no label of its
kind overlaps it. Presidio runs without a language model (a blank English pipeline), with every recognizer that goes by
patterns and checks; it takes what scores at least 0.35, half of its default certainty and what its phone and card
recognizers give.
"""

import gzip
import json
import logging
import subprocess
import sys

KINDS = {
    "CREDIT_CARD": "card",
    "PHONE_NUMBER": "phone",
    "EMAIL_ADDRESS": "email",
    "IBAN_CODE": "iban",
    "US_SSN": "us-ssn",
    "IP_ADDRESS": "ip",
}
SCORE = 0.35


def presidio():
    import spacy
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    class Blank(SpacyNlpEngine):
        def load(self):
            self.nlp = {"en": spacy.blank("en")}

    logging.disable(logging.WARNING)
    engine = Blank(models=[{"lang_code": "en", "model_name": "blank"}])
    engine.load()
    return AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])


def score(texts, finds):
    """finds: one list of (kind, start, end) for each text."""
    tally = {kind: [0, 0, 0, 0] for kind in KINDS.values()}
    for text, found in zip(texts, finds):
        labels = [(KINDS.get(s["entity_type"]), s["start_position"], s["end_position"]) for s in text["spans"]]
        for kind, start, end in labels:
            if kind is None:
                continue
            tally[kind][0] += 1
            covered = set()
            for k, s, e in found:
                if k == kind:
                    covered.update(range(s, e))
            tally[kind][1] += all(at in covered for at in range(start, end))
        for kind, start, end in found:
            if kind in tally:
                tally[kind][2] += 1
                tally[kind][3] += not any(k == kind and s < end and e > start for k, s, e in labels)
    return tally


def share(part, whole):
    return f"{part / whole:.3f}" if whole else "-"


def tidegate(binary, path):
    run = subprocess.run([binary, "mask", "test", path, "--labels", "--json"], capture_output=True, text=True)
    if run.returncode not in (0, 1):
        sys.exit(run.stderr)
    return json.loads(run.stdout)


def main():
    binary, synth, gitleaks = sys.argv[1:4]
    texts = json.load(gzip.open(synth))
    ours = [[(f["detector"], f["start"], f["end"]) for f in finds] for finds in tidegate(binary, synth)["finds"]]
    analyzer = presidio()
    theirs = []
    for text in texts:
        results = analyzer.analyze(text["full_text"], language="en", entities=list(KINDS), score_threshold=SCORE)
        theirs.append([(KINDS[r.entity_type], r.start, r.end) for r in results])
    mine, other = score(texts, ours), score(texts, theirs)
    print(f"{len(texts)} labelled sentences; recall, wrong finds of all finds")
    print(f"{'kind':<10} {'labelled':>8} {'tidegate':>9} {'wrong':>8} {'presidio':>9} {'wrong':>8}")
    for kind in KINDS.values():
        a, b = mine[kind], other[kind]
        print(f"{kind:<10} {a[0]:>8} {share(a[1], a[0]):>9} {f'{a[3]}/{a[2]}':>8} {share(b[1], b[0]):>9} {f'{b[3]}/{b[2]}':>8}")
    keys = tidegate(binary, gitleaks)["kinds"].get("credential", {})
    cases = [json.loads(line) for line in gzip.open(gitleaks)]
    print(f"{len(cases)} examples of secret scanners: {keys['found']} of {keys['labelled']} credentials found "
          f"({share(keys['found'], keys['labelled'])}), something found in {keys['wrong']} of "
          f"{len(cases) - keys['labelled']} examples that are called false (placeholders, and keys that are known from documents, among them)")


if __name__ == "__main__":
    main()
