"""Writes golden losses: tokens of a student and a teacher, and for each loss its terms, its total and
the total's gradient, by plain torch.

usage: make_losses.py OUT_DIR
needs: torch, safetensors
"""
import os, sys
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

CLASS, GRAM_WEIGHT, RELATION_WEIGHT, TEMPERATURE = 2, 0.3, 0.7, 0.2


def cosine(student, teacher):
    return 1 - F.cosine_similarity(student, teacher, dim=-1).mean()


def gram(student, teacher):
    def relations(tokens):  # [B, K, D] -> [B, K, K]
        return F.cosine_similarity(tokens[:, :, None], tokens[:, None, :], dim=-1)
    return F.mse_loss(relations(student), relations(teacher))


def smooth_l1_case(student, teacher):
    terms = {name: F.smooth_l1_loss(s, t) for name, s, t in zip(('class', 'patch'), student, teacher)}
    return terms, (terms['class'] + terms['patch']) / 2


def smooth_l1_patch_case(student, teacher):
    terms = {'patch': F.smooth_l1_loss(student[1], teacher[1])}
    return terms, terms['patch']


def gram_case(student, teacher):
    terms = {'gram': gram(student[1], teacher[1])}
    return terms, GRAM_WEIGHT * terms['gram']


def relation(student, teacher):
    def logarithms(tokens):  # [B, K, D] -> [B, K, K]
        cosines = F.cosine_similarity(tokens[:, :, None], tokens[:, None, :], dim=-1)
        return F.log_softmax(cosines / TEMPERATURE, dim=-1)
    teacher = logarithms(teacher)
    return (teacher.exp() * (teacher - logarithms(student))).sum(-1).mean()


def relation_case(student, teacher):
    terms = {'relation': relation(student[1], teacher[1])}
    return terms, RELATION_WEIGHT * terms['relation']


def features_and_relation_case(student, teacher):
    terms = {'class': cosine(student[0], teacher[0]), 'patch': cosine(student[1], teacher[1]),
             'relation': relation(student[1], teacher[1])}
    return terms, (terms['class'] + terms['patch']) / 2 + RELATION_WEIGHT * terms['relation']


def features_and_gram_case(student, teacher):
    terms = {'class': cosine(student[0], teacher[0]), 'patch': F.mse_loss(student[1], teacher[1]),
             'gram': gram(student[1], teacher[1])}
    share = CLASS / (CLASS + student[1].shape[1])
    return terms, share * terms['class'] + (1 - share) * terms['patch'] + GRAM_WEIGHT * terms['gram']


torch.manual_seed(13)
batch, patches, seen, dim = 3, 9, 5, 8
teacher = 1.5 * torch.randn(batch, CLASS + patches, dim)
keep = torch.stack([torch.randperm(patches)[:seen] for _ in range(batch)])
out = {'teacher': teacher, 'keep': keep}
for sight, count in (('whole', patches), ('masked', seen)):
    out[f'{sight}.student'] = 1.5 * torch.randn(batch, CLASS + count, dim)
    target = teacher[:, CLASS:]
    if sight == 'masked':
        target = torch.stack([of_image[places] for of_image, places in zip(target, keep)])
    for name, case in (('smooth_l1', smooth_l1_case), ('smooth_l1_patch', smooth_l1_patch_case),
                       ('gram', gram_case), ('features_and_gram', features_and_gram_case), ('relation', relation_case),
                       ('features_and_relation', features_and_relation_case)):
        student = out[f'{sight}.student'].clone().requires_grad_()
        terms, total = case((student[:, :CLASS], student[:, CLASS:]), (teacher[:, :CLASS], target))
        total.backward()
        out |= {f'{sight}.{name}.{term}': value.detach().clone() for term, value in terms.items()}
        out |= {f'{sight}.{name}.total': total.detach(), f'{sight}.{name}.gradient': student.grad}
os.makedirs(sys.argv[1], exist_ok=True)
save_file(out, f'{sys.argv[1]}/losses.safetensors')
