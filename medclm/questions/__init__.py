"""Questions, answers and reasoning out of linked cases; teachers that put the reasoning into other words."""

from medclm.questions.exchange import TEMPLATE, Exchange
from medclm.questions.exchanges import QuestionSettings, exchanges
from medclm.questions.rationales import Rationales
from medclm.questions.seed import seed_text
from medclm.questions.teacher import Prompt, Teacher, TeacherError, teacher

__all__ = [
    "TEMPLATE",
    "Exchange",
    "Prompt",
    "QuestionSettings",
    "Rationales",
    "Teacher",
    "TeacherError",
    "exchanges",
    "seed_text",
    "teacher",
]
