"""The short quiz at the end of each notebook, with a reason for every wrong choice."""

from __future__ import annotations

import random
from string import ascii_lowercase

from d2rkit.core.validation import nearest
from d2rkit.panels.quiz import Question, Quiz

QUESTIONS: dict[str, tuple[Question, ...]] = {
    "00": (
        Question("Which network sees the labels in a D2R step?", [
            ("the target", "The target's terms compare it with the guide; none of them contains a label."),
            ("the guide", "Cross-entropy is computed on the guide's prediction for the clean image, and nowhere else."),
            ("both", "Only cross-entropy contains the label, and it is computed on the guide alone."),
        ], "b"),
        Question("What does the guide see?", [
            ("clean images only",
             "Only the target sees x′. Its predictions on x and x′ are compared with the guide's on x."),
            ("clean and attacked images", "In D2R g(x′) is not computed; PeerAiD and AdaAD do compute it."),
            ("attacked images only", "That would be a second adversarially trained network, not D2R's guide."),
        ], "a"),
        Question("0 of 200 images are right under an attack. What is the accuracy on all images of this kind?", [
            ("exactly 0 %", "200 images are a sample. A network that gets one in 200 right would often show 0 of 200."),
            ("between 0 and about 2 %",
             "Wilson's 95 % interval. The standard error √(p(1−p)/n) is 0 here, which claims too much."),
            ("nothing can be said",
             "200 misses in a row say a lot: at 10 % accuracy at least one hit is nearly certain."),
        ], "b"),
    ),
    "01": (
        Question("A guide is torn between A and B, a target is sure of A. Which term is large?", [
            ("KL(target ‖ guide)", "Where the target has no probability, nothing is counted; it drops B for free."),
            ("KL(guide ‖ target)",
             "The guide still gives B probability, and the target's log-probability of B is very negative."),
            ("both alike", "The first argument decides where errors count, so the two differ most here."),
        ], "b"),
        Question("The released gap is 0. What follows?", [
            ("target and guide agree", "The gap is 0 on a whole curve of the triangle, not only at the guide."),
            ("both directions of KL have the same value", "That is all it says, and only for the batch mean."),
            ("the KL terms are both 0", "They are equal, which is much weaker."),
        ], "b"),
        Question("Which divergence has the same gradient at the target's logits as cross-entropy with the guide?", [
            ("KL(guide ‖ target)", "They differ by the guide's entropy, which the target cannot change: p_f − p_g."),
            ("KL(target ‖ guide)", "Its gradient is p_f times (log p_f/p_g minus its mean under p_f)."),
            ("MSE of logits", "Its gradient is the difference of logits, not of probabilities."),
        ], "a"),
    ),
    "02": (
        Question("Why do changes of 2/255 per pixel fool an undefended network?", [
            ("the network rounds pixels", "It does not; if it did, no gradient would lead anywhere."),
            ("thousands of tiny changes agree in direction", "The loss moves by up to ε‖∇ₓℓ‖₁, a sum over all pixels."),
            ("eight bits are too few", "Random changes of that size do next to nothing: the control of section 2."),
        ], "b"),
        Question("PGD has 5 steps of size ε/20. What is wrong?", [
            ("the steps are too small to reach the edge", "5 · ε/20 = ε/4: no pixel gets farther than a quarter of ε."),
            ("nothing, small steps are precise", "They are precise, but they stop a quarter of the way to the edge."),
            ("PGD needs steps larger than ε", "A step larger than ε only jumps from edge to edge."),
        ], "a"),
        Question("Two networks are compared, one defended, one not. When is the difference due to the defence?", [
            ("if both face the same attack", "Necessary but not sufficient: size, images and epochs may differ too."),
            ("if both have the same size, images, epochs and attack", "Then only the defence differs, up to the seed."),
            ("if the undefended one has the higher clean accuracy", "That is an outcome, not a condition."),
        ], "b"),
    ),
    "03": (
        Question("The weight of CE is 0 and training ends with a loss of 0. What was learnt?", [
            ("nothing about classes", "Guide and target agree perfectly on something no label has shaped."),
            ("the classes, from the other terms", "No other term contains a label."),
            ("the target learnt, the guide did not",
             "Whatever the target knows about the classes comes from the guide."),
        ], "a"),
        Question("Why is the guide less confident with all terms than when it is detached?", [
            ("it is attacked", "The guide sees clean points only."),
            ("it is pulled towards a target that must hold within ε",
             "Every term that ties the two together acts on both."),
            ("it has fewer parameters", "Both networks have the same size."),
        ], "b"),
        Question("One setting beats another by 2 of 180 points on one seed. What do you conclude?", [
            ("it is better", "Another seed may reverse it; look at all seeds."),
            ("they are equal", "That has not been shown either."),
            ("nothing yet", "Ask for more seeds and for an interval that excludes 0."),
        ], "c"),
    ),
    "04": (
        Question("What does CAG move away from?", [
            ("the label", "That is what CE does; CAG never sees a label."),
            ("the guide's prediction on x", "It ascends KL(g(x) ‖ f(x′))."),
            ("the target's prediction on x", "That is self-KL, the attack of TRADES."),
        ], "b"),
        Question("Self-KL from two random starts gives two different perturbations. Why?", [
            ("its gradient is 0 at the clean image",
             "At x′ = x the KL has its minimum; the random start decides which way is up."),
            ("it takes too few steps", "More steps continue in the direction of the first one."),
            ("the target is random", "It is in eval mode and gives the same output every time."),
        ], "a"),
        Question("An attack makes some images easier for the target. Is it broken?", [
            ("yes, an attack must fool",
             "KL knows only a reference prediction; moving away from it can also mean more confident."),
            ("no, one can move away from a prediction in two directions", "Less confident, or more confident."),
            ("only if ε is too small", "It happens at every ε; the start decides the direction."),
        ], "b"),
    ),
    "05": (
        Question("MSE between guide and target is tiny. Is the run good?", [
            ("yes, the target has learnt the guide",
             "Both may predict the same for every image: that is not learning."),
            ("you cannot tell without an accuracy", "In a collapse the agreement is better than in a healthy run."),
            ("no, MSE should be large", "In a good run it is moderate: the attack keeps the two apart."),
        ], "b"),
        Question("Which epoch may a paper report?", [
            ("the best on test images", "Then the test images have selected the epoch and no longer test it."),
            ("the best on validation images, and the last", "Both, so that readers can see robust overfitting."),
            ("the one with the smallest loss", "The training loss falls while accuracy on new images gets worse."),
        ], "b"),
        Question("A resumed run ends with different weights than an uninterrupted one. What follows?", [
            ("some state was not saved", "Optimiser, schedule, shuffling and attack each have state."),
            ("chance; that is normal",
             "Generators have seeds and states; on one machine the two runs must be identical."),
            ("the learning rate was too high", "It would have been too high in both."),
        ], "a"),
    ),
    "06": (
        Question("PGD-20 leaves 90 %. What is the robust accuracy?", [
            ("90 %", "That is only what PGD-20 could not break."),
            ("at most about 90 %", "Any attack gives an upper bound, up to sampling error."),
            ("at least 90 %", "Only a certificate gives a lower bound."),
        ], "b"),
        Question("A model's gradient is 0 on every image, and Square breaks it. What was it?", [
            ("robust", "It was broken."),
            ("masked", "The adversarial examples were there; the gradients did not lead to them."),
            ("overfitted", "Overfitting says nothing about the gradients."),
        ], "b"),
        Question("McNemar's test looks at which images?", [
            ("all", "Images that both get right, or both wrong, do not tell which is better."),
            ("those that exactly one of the two gets right", "Under “no difference” each of them is a fair coin."),
            ("those that both get wrong", "They do not tell the two apart."),
        ], "b"),
    ),
    "07": (
        Question("One AutoAttack accuracy is at ε = 8/255, another at 0.031. May you subtract them?", [
            ("yes, both are about 0.031", "0.031 is the smaller radius, so it is the easier task."),
            ("no, they belong in separate tables", "Take a difference only for the same data, network and ε."),
            ("yes, after rounding", "Rounding hides the difference; it does not remove it."),
        ], "b"),
        Question("p is small for one seed of each of two methods. What differs?", [
            ("the methods", "Two seeds of one method can differ as much."),
            ("these two trained networks", "The test is about these networks, on other images of the same kind."),
            ("nothing", "The networks do differ; the question is what made them differ."),
        ], "b"),
        Question("Which change moves PGD-AT's published accuracy most?", [
            ("the seed", "A few tenths of a point in published repetitions."),
            ("the recipe: weight decay, epochs, the epoch evaluated", "Several points, more than many new losses."),
            ("the computer", "Rounding changes only a few images."),
        ], "b"),
    ),
    "08": (
        Question("A 5.5-inch figure with 8-point type is shrunk to 2.75 inches. The type is then", [
            ("8 points", "Scaling a figure scales its type."),
            ("4 points", "Half the width, half the type."),
            ("16 points", "It shrinks."),
        ], "b"),
        Question("Why does each method have a colour, a marker and a dash pattern?", [
            ("for decoration", "Each of them has to suffice on its own."),
            ("so that no reader depends on colour",
             "Nothing is lost to colour-blind readers or in black-and-white print."),
            ("because journals ask for it", "Few do; readers benefit anyway."),
        ], "b"),
        Question("What do you need to draw a published figure in your own style?", [
            ("its PDF", "Numbers cannot be read from it to the last digit."),
            ("its CSV", "It has the numbers behind every line; the JSON says how they were made."),
            ("its PNG", "Pixels are not data."),
        ], "b"),
    ),
    "09": (
        Question("You changed a divergence and train again. Why does the old run stay?", [
            ("a run's name contains a digest of your code", "Another function, another experiment, another folder."),
            ("runs are never found again", "The same experiment finds its own folder."),
            ("it is overwritten", "Nothing is: the new version gets a folder of its own."),
        ], "a"),
        Question("Which control shows that your code is D2R except for the divergence?", [
            ("training both and comparing accuracies", "Equal accuracies can hide different losses."),
            ("the same code with plain KL gives the kit's terms", "Term by term on one batch: exact and fast."),
            ("reading the code twice", "Necessary, but not a test."),
        ], "b"),
        Question("Six networks on 100 images rank three losses. What is that worth?", [
            ("a ranking", "Two seeds and 100 images cannot order them."),
            ("evidence that the row trains", "That, and an idea of how large a difference would have to be to show."),
            ("nothing", "You know that it trains, and what more seeds would cost."),
        ], "b"),
    ),
    "10": (
        Question("Two points in the plane lie close together. What is certain?", [
            ("the two networks predict much the same", "They may differ along axes that the plane drops."),
            ("little: only the table has the full distance",
             "Dropping an axis brings points closer together or, if its eigenvalue is negative, moves them apart."),
            ("both are equally accurate", "Not even equal distances from the truth would imply that."),
        ], "b"),
        Question("Which of these terms of D2R contains f(x′)?", [
            ("the clean KL", "It compares f(x) with g(x); f(x′) moves only because the weights are shared."),
            ("the adversarial KL", "It is KL(f(x′) ‖ g(x))."),
            ("cross-entropy", "It is computed on g(x)."),
        ], "b"),
        Question("Over five seeds, the interval for switching a term off contains 0. Then the term", [
            ("does nothing", "Absence of evidence is not evidence of absence; the interval says what is excluded."),
            ("has an effect within that interval, possibly 0", "With 95 % confidence, and for networks of this size."),
            ("should be removed", "It may matter elsewhere, for clean accuracy for instance."),
        ], "b"),
    ),
    "11": (
        Question("Two equal Gaussians overlap more and more. What happens to the optimal classifiers?", [
            ("the most robust one moves away from the most accurate one",
             "By symmetry the boundary half-way is optimal for both, as long as ε is less than half their distance."),
            ("both lose accuracy but remain the same classifier", "Overlap costs accuracy but forces no choice."),
            ("nothing, since ε is the same", "More points lie near the boundary, so both accuracies fall."),
        ], "b"),
        Question("A network has 81 % clean and 64 % robust accuracy. At 64 % robust, the frontier is "
                 "at 83 % clean. So …", [
            ("2 points of clean accuracy are the network's own loss", "Some classifier is as robust and gets 83 %."),
            ("19 points are the network's own loss", "No classifier that robust exceeds 83 %: 17 are due to the data."),
            ("all of the loss is due to the data", "Then the dot would lie on the frontier."),
        ], "a"),
        Question("Why can no network lie above the frontier here, not even by luck?", [
            ("the networks are too small", "A larger one could not either: the frontier holds for every function."),
            ("it is judged on the distribution itself, and the frontier is the optimum over all classifiers",
             "There is no test sample to be lucky with, and no attack that could miss something."),
            ("it was trained on few points", "More points bring it closer to the frontier, not above it."),
        ], "b"),
    ),
    "12": (
        Question("CROWN's lower bound on a margin is −0.3. What follows?", [
            ("the image can be attacked", "Not necessarily: the bound may be loose and the true minimum above 0."),
            ("nothing", "The bound is sound but not exact: below 0 it says nothing."),
            ("the network is wrong on the clean image",
             "The clean margin may well be large; the bound is about the whole box."),
        ], "b"),
        Question("An image is certified at ε, and AutoAttack breaks it at the same ε. What now?", [
            ("the proof counts; ignore the attack", "The attacked image exists, and the network gets it wrong."),
            ("the attack counts; ignore the proof", "A sound proof rules out such an image, so something is wrong."),
            ("the bounds, the attack or the arithmetic has a bug",
             "Both cannot be true, so it is reported as an error."),
        ], "c"),
        Question("At ε = 15/255, interval bounds certify almost nothing for a network without a defence. Why?", [
            ("it has no robust images", "Some digits withstand AutoAttack; the bounds cannot certify them."),
            ("its weights let the intervals grow in every layer",
             "Half-widths are multiplied by absolute weights, so they only add up."),
            ("the bounds are wrong", "They are sound; being loose is not being wrong."),
        ], "b"),
    ),
    "13": (
        Question("Someone detaches the guide in the adversarial KL. What does the loss curve show?", [
            ("a smaller value", "detach changes gradients, not the value of the loss on a batch."),
            ("nothing at that step", "The value is the same; later steps differ, because the guide's update does."),
            ("an error", "It is legal and common: RSLAD's guide is detached."),
        ], "b"),
        Question("On which network do labels act directly in D2R?", [
            ("the target", "The target imitates the guide; no term compares it with a label."),
            ("the guide, by cross-entropy", "The target then learns from the guide."),
            ("both, by the MSE", "The MSE compares logits with logits."),
        ], "b"),
        Question("In the guide, a term's gradient has cosine −0.8 with the labels'. A small descent step on it", [
            ("raises the guide's cross-entropy",
             "To first order by 0.8 times the step size times the product of both norms."),
            ("lowers the guide's cross-entropy", "That would need a positive cosine."),
            ("leaves it unchanged", "Only a cosine of 0 does, to first order."),
        ], "a"),
    ),
}  # fmt: skip


def quiz(notebook: str) -> Quiz:
    """The quiz of a notebook, e.g. "03". ValueError if it has none."""
    if notebook not in QUESTIONS:
        raise nearest(notebook, QUESTIONS, "notebook with a quiz")
    return Quiz(f"{notebook}/quiz", [mixed(question) for question in QUESTIONS[notebook]])


def mixed(question: Question) -> Question:
    """The same question with its options in an order of its own, always the same one, so that no letter is likelier."""
    options = list(question.options)
    right = options[ascii_lowercase.index(question.right)]
    random.Random(question.text).shuffle(options)
    return Question(question.text, options, ascii_lowercase[options.index(right)])
