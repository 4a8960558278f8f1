"A tutorial whose sample can't be had stops at that cell, with one line that says what to do."
import os
from pathlib import Path

import nbformat, pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

tutorials = Path(__file__).resolve().parent.parent/'nbs'/'tutorials'

@pytest.mark.parametrize('name', ['01_first_transfer', '08_domain_text'])
def test_without_a_network_it_says_what_to_do(name, tmp_path, monkeypatch):
    for k, v in dict(TL_CACHE=tmp_path, PIP_INDEX_URL='http://127.0.0.1:9/simple', PIP_RETRIES=0, PIP_CONFIG_FILE=os.devnull).items(): monkeypatch.setenv(k, str(v))
    for k in ('PIP_EXTRA_INDEX_URL', 'PIP_FIND_LINKS'): monkeypatch.delenv(k, raising=False)
    nb = nbformat.read(tutorials/f'{name}.ipynb', 4)
    for c in nb.cells:
        if c.cell_type == 'code': c.outputs, c.execution_count = [], None
    with pytest.raises(CellExecutionError): NotebookClient(nb, timeout=900, kernel_name='python3', resources=dict(metadata=dict(path=str(tmp_path)))).execute()
    broken, = [c for c in nb.cells if any(o.output_type == 'error' for o in c.get('outputs', []))]
    said = next(o for o in broken.outputs if o.output_type == 'error')
    assert 'from_sample' in broken.source or 'sample(' in broken.source
    assert said.ename == 'TransferError' and len(said.traceback) == 1 and 'check the network' in said.traceback[0] and '\n' not in said.traceback[0].strip()
    after = nb.cells[nb.cells.index(broken) + 1:]
    assert not any(c.get('execution_count') for c in after)
