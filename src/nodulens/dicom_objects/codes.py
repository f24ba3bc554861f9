"""Coded concepts, from the context groups of DICOM PS3.16 where they have them; ``docs/dicom.md`` lists them."""

from __future__ import annotations

from collections.abc import Mapping

from pydicom.sr.coding import Code

from nodulens.clinical import brock_2013, bts_2015, fleischner_2017, herder_2005, lung_rads_v2022, mayo_1997
from nodulens.core.nodule import Side, Texture

# Segments: CID 7150, 7151, 7159 and 7162.
ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
ABNORMALITY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
LUNG = Code("39607008", "SCT", "Lung")
NODULE = Code("27925004", "SCT", "Nodule")
LEARNT = Code("123109", "DCM", "Artificial Intelligence")

# Places: CID 7151 and 244. The lobes of the two sides share their codes, which the laterality tells apart.
SIDES: dict[Side, Code] = {"left": Code("7771000", "SCT", "Left"), "right": Code("24028007", "SCT", "Right")}
LOBES = {
    "upper": Code("45653009", "SCT", "Upper lobe of lung"),
    "middle": Code("72481006", "SCT", "Middle lobe of right lung"),
    "lower": Code("90572001", "SCT", "Lower lobe of lung"),
}

# The report: CID 100, 218, 7464, 7469.
CHEST_CT = Code("169069000", "SCT", "CT of chest")
LONG_AXIS = Code("103339001", "SCT", "Long Axis")
SHORT_AXIS = Code("103340004", "SCT", "Short Axis")
DIAMETER = Code("81827009", "SCT", "Diameter")
VOLUME = Code("118565006", "SCT", "Volume")
ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
MEAN = Code("373098007", "SCT", "Mean")
CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
COMMENT = Code("121106", "DCM", "Comment")
EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")

# As TCIA's reports of LIDC-IDRI code it.
TEXTURE = Code("C41144", "NCIt", "Texture")
TEXTURES: dict[Texture, Code] = {
    "solid": Code("RID50151", "RadLex", "solid pulmonary nodule"),
    "part-solid": Code("RID50152", "RadLex", "part-solid pulmonary nodule"),
    "ground-glass": Code("RID50153", "RadLex", "non-solid pulmonary nodule"),
}

# Our own, for what the standard has no concept of.
SCHEME = "99NODULENS"
SOLID_DIAMETER = Code("SOLID-DIAMETER", SCHEME, "Mean diameter of the largest solid part")
SOLID_SHARE = Code("SOLID-SHARE", SCHEME, "Solid share of the volume")
SUSPICION = Code("SUSPICION", SCHEME, "Probability that expert readers rate the nodule suspicious")
SUSPICION_LOW = Code("SUSPICION-LOW", SCHEME, "Lower end of the interval of that probability")
SUSPICION_HIGH = Code("SUSPICION-HIGH", SCHEME, "Upper end of the interval of that probability")

COVERAGE = Code("COVERAGE", SCHEME, "What of the lungs was not searched, or may hide nodules")

# Clinical guidelines: what they say as text, and what risk models give as text and in per cent.
GUIDELINES: Mapping[str, Code] = {
    lung_rads_v2022.NAME: Code("LUNG-RADS-2022", SCHEME, "Lung-RADS v2022"),
    fleischner_2017.NAME: Code("FLEISCHNER-2017", SCHEME, "Fleischner Society guideline 2017"),
    bts_2015.NAME: Code("BTS-2015", SCHEME, "British Thoracic Society guideline 2015"),
}
MODELS: Mapping[str, Code] = {
    brock_2013.NAME: Code("BROCK-2013", SCHEME, "Probability of malignancy, Brock model 2013"),
    mayo_1997.NAME: Code("MAYO-1997", SCHEME, "Probability of malignancy, Mayo model 1997"),
    herder_2005.NAME: Code("HERDER-2005", SCHEME, "Probability of malignancy, Herder model 2005"),
}
LUNG_RADS = Code("RID50134", "RADLEX", "Lung-RADS assessment")


def lung_rads(category: str) -> Code | None:
    """The code of a Lung-RADS category of the edition of 2022, such as "4A" or "4AS"; None where it is none.

    RadLex has codes of the categories too, but they name no edition, and thresholds differ between editions.
    """
    if category.removesuffix("S") not in lung_rads_v2022.ORDER:
        return None
    return Code(f"LUNG-RADS-{category}", SCHEME, f"{lung_rads_v2022.NAME} category {category}")


# Units: CID 7181.
MM = Code("mm", "UCUM", "millimeter")
MM3 = Code("mm3", "UCUM", "cubic millimeter")
HU = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
PERCENT = Code("%", "UCUM", "Percent")

# What an image is to an object derived from it: CID 7202 and 7203.
SEGMENTATION = Code("113076", "DCM", "Segmentation")
SOURCE_IMAGE = Code("121322", "DCM", "Source Image for Image Processing Operation")
