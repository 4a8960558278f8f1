"The wings of the house, in the order of the walk. `python tools/wings.py` draws the picture in CONTRIBUTING.md."
from pathlib import Path
from textwrap import wrap

# Subfolder of nbs/api and of tl_nbdev → what stands above it in the sidebar.
wings = {
    'base': 'Settings, files, caches',
    'data': 'Data: tables, labels, splits',
    'networks': 'Networks, and where they are cut',
    'strategies': 'Strategies: how much trains',
    'vision': 'Photos',
    'text': 'Texts',
    'boxes': 'Things in photos',
    'generation': 'Texts that are written',
    'pairs': 'Two that belong together',
    'code': 'Code',
    'audio': 'Sound',
    'multimodal': 'Photos with texts',
    'training': 'Training and saving',
    'selection': 'Choosing: which, and how much',
    'adaptation': 'Another domain',
    'diagnostics': 'Can I believe it?',
    'sharing': 'Out to anywhere: what was adapted here, used elsewhere',
    'hosted': 'Models that others host',
    'apps': 'Shell, dashboard, demo',
}

def rooms(api):
    "The notebooks below nbs/api, in the order of the walk"
    order = [*wings]
    def place(nb): return order.index(nb.parent.name) if nb.parent.name in wings else len(order), nb.parent.name, nb.name
    return sorted((nb for nb in Path(api).rglob('[0-9]*.ipynb') if '.ipynb_checkpoints' not in nb.parts), key=place)

def picture(api):
    "The rooms, a paragraph a wing"
    found = {}
    for nb in rooms(api): found.setdefault(nb.parent.name, []).append(nb.stem.partition('_')[2])
    drawn = []
    for wing, names in found.items():
        first, *more = wrap(', '.join(names), 84)
        drawn.append('\n'.join([f' {wing:<12} {first}', *(' '*14 + line for line in more)]))
    return '\n   │\n'.join(drawn)

if __name__ == '__main__': print(picture(Path(__file__).resolve().parent.parent/'nbs'/'api'))
