"The hub on loopback is one: its client, timm and transformers believe it, and its faults are those that a real one has."
import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError,
                                    RevisionNotFoundError)
from hub import good_token, other_token
from safetensors.torch import save

@pytest.fixture
def repo(hub):
    weights = save(dict(w=torch.arange(10_000.)))
    hub.add('me/net', {'config.json': '{"model_type": "bert"}', 'model.safetensors': weights}, licence='mit')
    return hub

def test_files_come_with_commit_and_digest(repo):
    for name in ('config.json', 'model.safetensors', 'README.md'):
        got = Path(hf_hub_download('me/net', name))
        sha = repo.repos['me/net'].refs['main']
        assert got.read_bytes() == repo.repos['me/net'].commits[sha][name]
        assert got.parent.name == sha

def test_revisions(repo):
    old = repo.repos['me/net'].refs['main']
    new = repo.add('me/net', {'config.json': '{"model_type": "gpt2"}'})
    repo.add('me/net', {'config.json': '{"model_type": "t5"}'}, ref='v1')
    kinds = {rev: json.loads(Path(hf_hub_download('me/net', 'config.json', revision=rev)).read_text('utf-8'))['model_type']
             for rev in (old, new, 'main', 'v1')}
    assert kinds == {old: 'bert', new: 'gpt2', 'main': 'gpt2', 'v1': 't5'}
    with pytest.raises(RevisionNotFoundError): hf_hub_download('me/net', 'config.json', revision='v2')

def test_what_is_not_there(repo):
    with pytest.raises(EntryNotFoundError): hf_hub_download('me/net', 'vocab.txt')
    with pytest.raises(RepositoryNotFoundError): hf_hub_download('me/other', 'config.json')

def test_gated(repo):
    repo.add('me/secret', {'config.json': '{}'}, gated=True)
    for token in (False, other_token):
        with pytest.raises(GatedRepoError): hf_hub_download('me/secret', 'config.json', token=token)
    with pytest.raises(HfHubHTTPError, match='Invalid credentials'): hf_hub_download('me/net', 'config.json', token='hf_wrong')
    assert Path(hf_hub_download('me/secret', 'config.json', token=good_token)).read_text('utf-8') == '{}'

def test_an_old_name_leads_to_the_new(repo):
    repo.alias('net', 'me/net')
    assert 'bert' in Path(hf_hub_download('net', 'config.json')).read_text('utf-8')

def test_a_connection_that_is_cut_once_is_taken_up_again(repo):
    repo.fault('me/net', 'model.safetensors', 'cut', times=1)
    got = Path(hf_hub_download('me/net', 'model.safetensors')).read_bytes()
    assert got == repo.repos['me/net'].commits[repo.repos['me/net'].refs['main']]['model.safetensors']
    assert sum('/cdn/' in line and line.startswith('GET') for line in repo.asked) == 2

def test_half_a_file_is_noticed_and_not_kept(repo):
    repo.fault('me/net', 'model.safetensors', 'short')
    with pytest.raises(OSError, match='Consistency check failed'): hf_hub_download('me/net', 'model.safetensors')
    repo.mend()
    assert Path(hf_hub_download('me/net', 'model.safetensors')).stat().st_size > 40_000

@pytest.mark.parametrize('status', ['429', '500'])
def test_a_hub_that_is_busy(repo, status):
    repo.fault('me/net', 'config.json', status)
    with pytest.raises(OSError): hf_hub_download('me/net', 'config.json')

def test_snapshot_info_and_search(repo):
    repo.add('you/net', {'config.json': '{"architecture": "resnet18"}'}, licence='apache-2.0', downloads=7)
    assert sorted(file.name for file in Path(snapshot_download('me/net')).iterdir()) == ['README.md', 'config.json', 'model.safetensors']
    api = HfApi()
    assert api.model_info('me/net').sha == repo.repos['me/net'].refs['main']
    assert [found.id for found in api.list_models(search='net')] == ['you/net', 'me/net']
    assert [found.id for found in api.list_models(search='net', filter='timm')] == ['you/net']
    assert api.list_repo_files('me/net') == [*repo.repos["me/net"].commits[repo.repos["me/net"].refs["main"]]]

def test_what_is_brought_is_there(hub, tmp_path):
    (tmp_path/'model').mkdir()
    (tmp_path/'model/model.safetensors').write_bytes(weights := save(dict(w=torch.ones(3))))
    (tmp_path/'model/README.md').write_text('---\nlicense: mit\n---\nhello', encoding='utf-8')
    api = HfApi(token=good_token)
    api.create_repo('me/mine', private=True)
    api.upload_folder(repo_id='me/mine', folder_path=tmp_path/'model')
    assert Path(hf_hub_download('me/mine', 'model.safetensors', token=good_token)).read_bytes() == weights
    with pytest.raises(RepositoryNotFoundError): api.model_info('me/mine', token=False)
