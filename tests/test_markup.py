"Names that other people wrote stay text, wherever a page is made of them."
import re

import pytest

from tl_nbdev.training.card import model_card
from tl_nbdev.base.samples import Table, as_markdown

NAMES = ['<img src=x onerror=alert(1)>', '[press](javascript:alert(1))', 'a | b\n\n# heading', '<script>alert(1)</script>', '![x](http://x/y.png)', '&lt;b&gt;']


@pytest.mark.parametrize('name', NAMES)
def test_name_in_table_is_text(name):
    lines = Table([{'class': name, name: 1}], about=name)._repr_markdown_().splitlines()
    assert len(lines) == 5 and all(len(re.findall(r'(?<!\\)\|', line)) == 3 for line in lines[:3])
    assert '<' not in ''.join(lines) and '](' not in ''.join(lines)


@pytest.mark.parametrize('name', NAMES)
def test_name_in_card_is_text(name):
    data = dict(name=name, n_train=1, n_valid=1, n_test=1, seed=0, given=False, grouped=False, skipped=0, classes={name: 1, 'b': 2}, licence=name, cite=name, notes=[name], reads=1)
    result = dict(metric='accuracy', value=.5, interval=[.4, .6], n=3, part='test', calibration=None)
    info = dict(pretrained=dict(name=name, library='timm', source='wheel'), weights_licence=name, classes=[name, 'b'], modality=dict(kind='image'), answer=dict(kind='single-label', classes=[name, 'b']), head='linear', transfers=[], result=result, data=data)
    front, page = model_card(info).split('---\n', 2)[1:]
    assert len(front.splitlines()) == 3
    assert not re.search(r'<(img|script)', page) and '](' not in page and '# heading' not in page.splitlines()


def test_ordinary_names_are_unchanged():
    for name in ('cat', 'BMW 3 (E46)', 'C++', 'snake_case', '50 % [40, 60]', 'naïve'):
        assert as_markdown(name) == name
