"""SGD under shrinkage, simulated on problems with known constants, and held against the bounds of ``fastgrad.theory``.

problems.py   quadratics, logistic and robust regressions: many at a time, each with known L, c, s2 and minimum
treatment.py  what shrinks the gradient and what noise is added: q_k and eps_k
paths.py      the iteration, over many problems and repetitions at once
verdicts.py   a mean over repetitions against a bound, with its Monte-Carlo error
bounded.py    measured against bounds (1) to (4)
floors.py     floors, slowdown and rates on a quadratic, where everything is known exactly
autoscale.py  centred gradients with a bounded multiplier: the iteration, and measured against its bound
limits.py     the two limits of that bound
study.py      all of it: ``fastgrad shrinkage model``
"""
