"""Knowledge distillation: a student learns a teacher's softened answers beside the labels.

Source: Hinton et al. 2015, with the settings of Liu et al. 2022 (ML-DOCTOR, section 7.2): temperature 20, weight 0.7
on the soft part and the rest on the labels. The soft part is the Kullback-Leibler divergence from teacher to student
at the temperature T, times T squared, which keeps its gradients as large as those of the labels.

`as_released` doubles the soft part, as their training file does. They distil VGG-19 into VGG-11; here the student is
the protocol's network and `teacher` names the other one, None the same network from another start. Compare with an
undefended network of the student's kind (RULES 31). Teacher and student learn from the same data, so that this
is no privacy mechanism by itself.

Differences: the teacher answers for the augmented images of the batch. The student has the learning rate of ML-DOCTOR
(section 5.3), not the recipe's: at a temperature of 20 the soft part is nearly the squared distance of the logits,
whose curvature does not fall where cross-entropy is flat. At the rate of fashion-mini-v1, five times as large, training
diverged.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmark.api import Annotated, Card, Defense, Field, Hyper, Literal, Search, Training, bfloat16


class Distillation(Defense):
    """The deployed network is the student."""

    card = Card(
        title="Knowledge distillation",
        authors=("Hinton", "Vinyals", "Dean"),
        reference="Distilling the Knowledge in a Neural Network, 2015; settings of ML-Doctor, USENIX Security 2022",
        year=2015,
    )
    stages = ("training",)

    class Params(Hyper):
        """`soft_weight` is the share of the soft part in the loss."""

        teacher: Literal[None, "small_cnn", "simple_cnn", "resnet18", "vgg11"] = None
        temperature: Annotated[float, Field(gt=0), Search(1, 40, log=True)] = 20.0
        soft_weight: Annotated[float, Field(ge=0, le=1), Search(0.1, 1)] = 0.7
        learning_rate: Annotated[float, Field(gt=0), Search(0.001, 0.03, log=True)] = 0.01
        as_released: bool = False

    def train(self, training: Training) -> nn.Module:
        """Train the teacher by the recipe, then the student by the same recipe."""
        if self.params.teacher is None:  # from another seed: with the student's, both would be the same network
            (teacher,) = training.fit_each([torch.arange(len(training.train))], "teacher")
        else:
            teacher = training.fit(training.build(self.params.teacher))
        teacher.requires_grad_(False)
        low = bfloat16(training.device, training.recipe.precision == "bfloat16")

        def cost(student: nn.Module, x: Tensor, y: Tensor, epoch: int) -> Tensor:
            with torch.no_grad(), low:
                taught = teacher(x)
            return self.student_loss(student(x), taught.float(), y).mean()

        def sgd(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
            decay = training.recipe.weight_decay
            return torch.optim.SGD(parameters, self.params.learning_rate, momentum=0.9, weight_decay=decay)

        return training.fit(self.network(training), cost=cost, optimizer=sgd)

    def student_loss(self, logits: Tensor, taught: Tensor, y: Tensor) -> Tensor:
        """Losses (n,) in nats of the student's logits (n, k), given the teacher's, `taught` (n, k), and labels y (n,)."""
        t, share = self.params.temperature, self.params.soft_weight
        target = (taught / t).log_softmax(1)
        divergence = (target.exp() * (target - (logits / t).log_softmax(1))).sum(1)
        scale = t**2 * (2 if self.params.as_released else 1)
        return share * scale * divergence + (1 - share) * nn.functional.cross_entropy(logits, y, reduction="none")
