"""The quizzes of notebooks 11 and 12, with a reason for every wrong choice."""

from __future__ import annotations

from d2rkit.panels.quiz import Question

AMBIGUITY = (
    Question("Two equal Gaussians overlap more and more. What happens to the best classifiers?", [
        ("the most robust one moves away from the most accurate one",
         "By symmetry the border half-way is best for both, at any overlap and any ε."),
        ("both lose accuracy, and stay the same classifier", "Ambiguity costs accuracy; it need not cost a choice."),
        ("nothing, since ε is the same", "Points near the border become more, and both accuracies fall."),
    ], "b"),
    Question("A network has 81 % clean and 64 % robust accuracy, and the frontier at 64 % lies at 83 % clean. So …", [
        ("2 points of clean accuracy are the network's own doing", "Somebody is as robust and gets 83 %."),
        ("19 points are the network's own doing", "Nobody as robust exceeds 83 %: most of them are the data's."),
        ("all of it is the data's", "Then the dot would lie on the frontier."),
    ], "a"),
    Question("Why can no network lie above the frontier here, not even by luck?", [
        ("the networks are too small", "A larger one cannot either: the frontier holds for every function."),
        ("it is judged on the distribution itself, and the frontier is the optimum over all answers",
         "No sample, no attack that could fail to find something."),
        ("it was trained on few points", "More points bring it nearer to the frontier, not above it."),
    ], "b"),
)  # fmt: skip

SANDWICH = (
    Question("CROWN's lower bound of a margin is −0.3. What follows?", [
        ("the image can be attacked", "A bound that is too low proves nothing; the true minimum may be above 0."),
        ("nothing", "The bound is sound, not exact: below 0 it is silent."),
        ("the network is wrong on the clean image", "The clean margin may well be large; the box is what is wide."),
    ], "b"),
    Question("An image is proven at ε and AutoAttack breaks it at the same ε. What now?", [
        ("the proof counts, ignore the attack", "The attacked image is there, and the network is wrong on it."),
        ("the attack counts, ignore the proof", "A sound proof excludes such an image: something else is broken."),
        ("the bounds, the attack or the arithmetic has a bug", "Both cannot be true, so it is reported as an alarm."),
    ], "c"),
    Question("A network without defence, ε = 15/255: interval bounds prove nearly nothing. Why?", [
        ("it has no robust images", "Some digits withstand AutoAttack; the bounds cannot tell."),
        ("its weights let the intervals grow in each layer", "Half-widths go through absolute values and only add up."),
        ("the bounds are wrong", "They are sound; being loose is not being wrong."),
    ], "b"),
)  # fmt: skip
