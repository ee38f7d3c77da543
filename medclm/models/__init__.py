"""The models that are trained: checkpoints of transformers, the offline student, a tiny one.

Importing this package makes EfficientNet-Lite known to transformers: afterwards
``AutoModelForImageTextToText.from_pretrained`` loads the student's checkpoints like any other.
"""

from medclm.models import efficientnet_lite

efficientnet_lite.register()
