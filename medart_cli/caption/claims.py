"""What no caption may claim: who the patient is, what is to be done, and what disease it might be.

English texts alone. What is surely such a claim is asked for again; what may be one is flagged.
"""

import re
from collections.abc import Iterable, Sequence

from medart_cli.caption.language import FUNCTION_WORDS
from medart_cli.caption.mentions import is_code, name_forms, plural_forms
from medart_cli.data.words import fold_word, is_negated, spaced, words_of

_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_ONES = "one|two|three|four|five|six|seven|eight|nine"
_MONTHS = (
    "January February March April May June July August September October November December"
).replace(" ", "|")
_WHO = "patient|individual|person|subject|adult|adolescent|child|infant|newborn"
# Age, sex, descent, names and dates, as texts about a person have them; male pattern and aged paper
# are none, and neither is an old scar.
DEMOGRAPHICS = re.compile(
    rf"\b(?:\d{{1,3}}|(?:{'|'.join(_TENS)})(?:[- ](?:{_ONES}))?)"
    r"[- ]?(?:years?|yrs?|months?)[- ]?old\b"
    r"|\b\d{1,3} ?y/?o\b"
    r"|\bage[ds]?(?: of|:)? ?(?:about |around |approximately )?\d{1,3}\b"
    rf"|\b(?:his|her|their) (?:early |mid-?|late )?(?:{'|'.join(ten[:-1] + 'ies' for ten in _TENS)}"
    r"|\d0s)\b"
    rf"|\b(?:elderly|middle-aged|young|younger|older|old|pediatric|geriatric) (?:{_WHO})s?\b"
    r"|\b(?:in|of|on) an? (?:child|adolescent|infant|baby|newborn|toddler|teenager|adult)\b(?!-)"
    r"|\b(?:child|infant|baby|toddler|teenager)'s\b"
    r"|\b(?:elderly|middle-aged|young|older|adult) (?:fe)?males?\b"
    rf"|\b(?:fe)?male (?:{_WHO}|infant|gender|sex)s?\b|\b(?:{_WHO}) is (?:a )?(?:fe)?male\b"
    r"|\b(?:man|woman|women|boy|girl|gentleman|lady)\b(?!-)|\b(?:she|hers?|him)\b"
    r"|\b(?-i:[Hh]e|his)\b"  # HE is a stain, His a bundle
    r"|\b(?:caucasian|african[- ]american|hispanic|latin[oa]|ethnicity)\b"
    r"|\bof (?:\w+[- ])?\w+ (?:descent|ancestry)\b"
    r"|\b(?-i:(?:Mrs?|Ms|Dr|Prof)\.? [A-Z])|\bpatient(?:'s)? (?:name|id)\b|\bdate of birth\b"
    r"|\b(?-i:DOB|MRN)\b",
    re.IGNORECASE,
)
DATES = re.compile(
    r"\b\d{1,2}([./-])\d{1,2}\1(?:19|20)\d\d\b|\b(?:19|20)\d\d-\d\d-\d\d\b"
    rf"|\b(?:{_MONTHS}) (?:\d{{1,2}}(?:st|nd|rd|th)?,? )?(?:19|20)\d\d\b"
    rf"|\b\d{{1,2}}(?:st|nd|rd|th)? (?:of )?(?:{_MONTHS})\b"
)
# Words about a person that say nothing of which one it is.
NO_FACTS = FUNCTION_WORDS["en"] | frozenset(
    "patient person year years month months old age".split()
)
_EXAMS = (
    r"(?:biops(?:y|ies)|excision|removal|surgery|treatment|therapy|histolog\w+|histopatholog\w+|"
    r"monitoring)"
)
_DEEDS = (
    "biopsied|excised|removed|resected|examined|evaluated|monitored|followed|treated|referred|"
    "investigated|assessed|checked|sampled|correlated|ruled out|excluded|confirmed|consulted|"
    "reviewed|performed|sought|obtained"
)
ADVICE = re.compile(
    r"\b(?:should|must|needs? to|ought to|ha(?:s|ve) to|may need to) be (?:\w+ ){0,2}"
    rf"(?:{_DEEDS})\b"
    r"|\b(?:recommend|advis)(?:s|ed|ing|es|able|ation|ations)?\b"
    r"|\b(?:warrants?|warranted|necessitates?)\b"
    r"|\b(?:requires?|requiring|needs?) (?:further|urgent|immediate|prompt|medical|closer) \w+"
    r"|\bfurther (?:evaluation|investigation|work-?up|testing|tests|examination|assessment|imaging|"
    r"diagnostics?|medical)\b"
    r"|\bfollow(?:-| )?up\b|\bseek (?:\w+ )?(?:medical|professional|attention|advice|care)\b"
    r"|\bsee (?:a|your) (?:doctor|dermatologist|physician|specialist|ophthalmologist)\b"
    r"|\b(?:consult|consultation)\b|\breferral\b|\breferred (?:to (?!as)|for)"
    r"|\bmedical (?:attention|advice)\b"
    r"|\b(?:biopsy|excision|surgery|treatment|therapy) (?:is|may be|might be|should|would)\b"
    rf"|\b{_EXAMS} (?:(?:examination|confirmation|analysis) )?(?:needed|required|necessary|"
    r"indicated|suggested|to (?:confirm|exclude|determine|establish|rule))\b"
    rf"|\b(?:needs?|requires?|consider(?:ed|ing)?)(?: an?| for)? (?:\w+ )?{_EXAMS}\b"
    r"|\b(?:close|regular|continued) monitoring\b|\bmonitor (?:for|it|the|this)\b"
    r"|\bclinical(?:ly)? correlat\w+|\bcorrelat\w+ clinically\b",
    re.IGNORECASE,
)
# What leads to a diagnosis, with up to eight words of it.
_LEADS = (
    r"consistent with|compatible with|suggestive of|suggests?|suggesting|suspicious (?:for|of)|"
    r"indicative of|indicates?|indicating|concerning for|diagnostic of|in keeping with|typical of|"
    r"characteristic of|diagnosis of|diagnosed (?:with|as)|differentials?(?: diagnos[ei]s)?|"
    r"(?:possible|possibly|probable|probably|likely|suspected|potential|presumed)|rule out|"
    r"(?:may|might|could) (?:be|represent|indicate|suggest)|representing|represents|evidence of"
)
DIAGNOSIS_LEAD = re.compile(
    rf"\b(?:{_LEADS})\b[:,]?((?:[^\w.;!?]{{1,2}}\w+){{1,8}})", re.IGNORECASE
)
CANCER = re.compile(
    r"\b(?:\w{0,20}(?:carcinoma|sarcoma|melanoma|lymphoma|blastoma|myeloma|glioma)(?:s|ta)?"
    r"|cancer(?:s|ous)?|malignan(?:t|cy|cies)|metasta(?:sis|ses|tic)|leuka?emias?"
    r"|lentigo maligna)\b",
    re.IGNORECASE,
)
# What denies the class that follows; `no other polyps` does not.
_SIGNS = r"(?:features?|signs?|evidence|indications?|criteria|characteristics|hallmarks?)"
DENIAL = (
    rf"\b(?:(?:no|without|lacks?|lacking|absence of) (?:\w+ ){{0,2}}{_SIGNS} (?:\w+ ){{0,2}}of|"
    r"not(?: (?:consistent|compatible) with| (?:typical|suggestive|characteristic|indicative) of)?)"
    r"(?: an?| any)?"
)
# What a cancer is not said to be, and what no picture alone tells of any lesion.
BENIGN = re.compile(r"\b(?:benign|harmless|innocuous|non-?cancerous)\b", re.IGNORECASE)
JUDGMENT = re.compile(
    rf"{BENIGN.pattern}|\b(?:suspicious|worrisome|reassuring)\b(?! (?:for|of))"
    r"|\b(?:suggestive of|suggests|suspicious (?:for|of)|concerning for|worrisome for|"
    r"consistent with|compatible with|indicative of|diagnostic of|in keeping with|"
    r"(?:likely|probably|possibly|presumably) (?:an?|the))((?:[^\w.;!?]{1,2}\w+){1,4})",
    re.IGNORECASE,
)
NEOPLASM = re.compile(r"\b(?:tumou?rs?|tumoral|neoplas\w*|mass|lesions?)\b", re.IGNORECASE)
DISEASE = re.compile(
    r"\b(?:\w{2,30}(?:itis|osis|iasis|omas?|emia|opathy|plasia|trophy)|diseases?|syndromes?|"
    r"disorders?|infections?|pneumonia|stroke|diabet\w+|fractures?|eczema)\b",
    re.IGNORECASE,
)
# These end like diseases and are words of a description.
NO_DISEASE = frozenset(
    "stroma chroma aroma diagnosis mitosis apoptosis necrosis fibrosis keratosis hyperkeratosis "
    "parakeratosis orthokeratosis acanthosis phagocytosis pinocytosis anastomosis stenosis "
    "hyperemia anisocytosis poikilocytosis anisopoikilocytosis cyanosis hypotrophy".split()
)
# Names of diseases that are also words of a description, unless something leads to them.
NAMED = re.compile(
    r"\b(?:na?ev(?:us|i)|moles?|lentigo|lentigines|keratos[ei]s|warts?|lichen planus)\b",
    re.IGNORECASE,
)
MEASURE = re.compile(
    r"\b\d+(?:[.,]\d+)? ?(?:(?:mm|cm|millimet\w+|centimet\w+|microns?|micromet\w+|µm|μm)\b"
    r"|[x×] magnification\b|(?:%|percent) of\b)"
)


def stated_person(text: str, context: Sequence[str]) -> str | None:
    """Return what a text says of age, sex, descent, name or date of the person; None without.

    What the row's own context sentences told the model is not made up, and does not count.
    """
    known = {word for sentence in context for word in words_of(sentence)} - NO_FACTS
    for pattern in (DEMOGRAPHICS, DATES):
        for found in pattern.finditer(text):
            if known.isdisjoint(words_of(found[0])):
                return found[0]
    return None


def given_advice(text: str) -> str | None:
    """Return what a text says is to be done, now or later; None without."""
    found = ADVICE.search(text)
    return found[0] if found else None


def made_diagnosis(text: str, own: Sequence[str], findings: Iterable[str]) -> str | None:
    """Return a diagnosis that a text makes besides the row's own class; None without.

    That is a disease behind words that lead to one (`consistent with early melanoma`), and any
    cancer, unless the row's own class is one or a tumor; of a cancer, that it is benign; and of any
    class, that there are no signs of it. Of a label that is a code nobody can say, and what else is
    said not to be there is no diagnosis.

    Args:
        text: The caption behind its template.
        own: Names of the row's own class.
        findings: Beginnings of words that may be described in any class.
    """
    label = " ".join(own)
    if own and all(is_code(name) for name in own):
        return None
    if denied := _find_denial(text, own):
        return denied
    allowed = _allows_cancer(own)
    for found in DIAGNOSIS_LEAD.finditer(text):
        disease = _find_disease(found[1], label, findings, (CANCER, DISEASE, NAMED))
        if disease is None or (allowed and CANCER.fullmatch(disease)):
            continue
        if not is_negated(text[: found.start()]):
            return f"{found[0][: -len(found[1])]} {disease}"
    if allowed and not CANCER.search(label):  # a tumor may be either
        return None
    wrong = BENIGN if allowed else CANCER
    said = (found for found in wrong.finditer(text) if not is_negated(text[: found.start()]))
    return next((found[0] for found in said if not _is_known(found[0], label)), None)


def hinted_diagnosis(text: str, own: Sequence[str], findings: Iterable[str]) -> list[str]:
    """Return words that may be a diagnosis besides the row's own class, for a reviewer to judge."""
    label = " ".join(own)
    patterns = (CANCER, DISEASE) if _allows_cancer(own) else (DISEASE,)
    words = [found[0].lower() for pattern in patterns for found in pattern.finditer(text)]
    return [word for word in dict.fromkeys(words) if _is_disease(word, label, findings)]


def stated_judgments(text: str, own: Sequence[str]) -> list[str]:
    """Return words that judge or interpret what is seen, for a reviewer; not those of the label."""
    found = []
    for judged in JUDGMENT.finditer(text):
        names = [name for name in own if spaced(name) in spaced(judged[0])]
        if not names and not is_negated(text[: judged.start()]):
            found.append(judged[0].lower())
    label = " ".join(own)
    return [words for words in dict.fromkeys(found) if not _is_known(words, label)]


def stated_measures(text: str) -> list[str]:
    """Return measures, magnifications and shares, which a picture without a scale does not tell."""
    return list(dict.fromkeys(found[0] for found in MEASURE.finditer(text)))


def _find_denial(text: str, own: Sequence[str]) -> str | None:
    """Return words that say that the row's own class is not there; None without."""
    said = " ".join(fold_word(word) for word in words_of(text))
    forms = [" ".join(form) for name in own if not is_code(name) for form in name_forms(name)]
    found = re.search(rf"{DENIAL} (?:{'|'.join(map(re.escape, forms))})\b", said) if forms else None
    return found[0] if found else None


def _allows_cancer(own: Sequence[str]) -> bool:
    """Say whether the row's class is a cancer or a tumor, or may be one as a code may."""
    label = " ".join(own)
    known = CANCER.search(label) or NEOPLASM.search(label)
    return bool(known) or (bool(own) and all(is_code(name) for name in own))


def _find_disease(
    text: str, label: str, findings: Iterable[str], patterns: Iterable[re.Pattern[str]]
) -> str | None:
    for pattern in patterns:
        for found in pattern.finditer(text):
            if _is_disease(found[0], label, findings):
                return found[0]
    return None


def _is_disease(word: str, label: str, findings: Iterable[str]) -> bool:
    singular = word.lower().removesuffix("s")
    if {word.lower(), singular} & NO_DISEASE or _is_known(word, label):
        return False
    return not any(spaced(word).startswith(spaced(item).rstrip()) for item in findings)


def _is_known(word: str, label: str) -> bool:
    """Say whether a word stands in the row's own label, in singular or plural."""
    known = {form for item in words_of(label) for form in plural_forms(fold_word(item))}
    return not known.isdisjoint(plural_forms(fold_word(word)))
