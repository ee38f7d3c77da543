"""Words by which a reply is held against the annotation."""

from __future__ import annotations

# Findings that a reply may not bring in by itself; longer names are looked for before the shorter ones in them.
FINDINGS = tuple(
    """
    abscess|adenopathy|aneurysm|aortic enlargement|ascites|atelectasis|atherosclerosis|bronchiectasis|calcification|
    cancer|carcinoma|cardiomegaly|cirrhosis|collapse|consolidation|cyst|edema|embolism|emphysema|fibrosis|fracture|
    gallstone|glioma|glioblastoma|granuloma|haematoma|haemorrhage|hematoma|hemorrhage|hernia|hydronephrosis|
    infarct|infarction|infiltrate|infiltration|inflammation|interstitial lung disease|kidney stone|lesion of another kind|
    lymphadenopathy|lymphoma|malignancy|mass|melanoma|meningioma|metastasis|naevus|nevus|nodule|oedema|opacity|
    pleural effusion|pleural thickening|pneumonia|pneumothorax|polyp|stenosis|thrombosis|tuberculosis|tumor|tumour|ulcer
    """.replace("\n", "")
    .replace(" ", "\x00")
    .split("|")
)
FINDINGS = tuple(" ".join(finding.replace("\x00", " ").split()) for finding in FINDINGS)

# Word -> the word that organs go by; a reply may use another form of the host's name.
ORGAN_WORDS = {
    form: forms[0]
    for forms in (
        ("adrenal", "adrenals"),
        ("aorta",),
        ("bladder",),
        ("bone", "bones"),
        ("brain", "cerebrum", "cerebellum"),
        ("breast", "breasts"),
        ("bronchus", "bronchi"),
        ("clavicle", "clavicles"),
        ("colon", "bowel", "intestine", "rectum", "duodenum"),
        ("diaphragm", "hemidiaphragm"),
        ("esophagus", "oesophagus"),
        ("femur", "femurs"),
        ("gallbladder",),
        ("heart",),
        ("hilum", "hila"),
        ("humerus",),
        ("kidney", "kidneys"),
        ("liver",),
        ("lobe", "lobes"),
        ("lung", "lungs"),
        ("mediastinum",),
        ("ovary", "ovaries"),
        ("pancreas",),
        ("pleura",),
        ("prostate",),
        ("retina",),
        ("rib", "ribs"),
        ("sacrum",),
        ("scapula", "scapulae"),
        ("skin",),
        ("skull",),
        ("spine", "vertebra", "vertebrae"),
        ("spleen",),
        ("sternum",),
        ("stomach",),
        ("thyroid",),
        ("trachea",),
        ("uterus",),
    )
    for form in forms
}
