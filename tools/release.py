"""Before a package is built: the addresses that only the repository itself knows. `python tools/release.py ADDRESS [TAG]` gives pyproject.toml its
[project.urls], and README.md absolute links, because what a package index shows has no files beside it. It changes the two files where it stands."""
import re, sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
_code = re.compile(r'(^```.*?^```|`[^`\n]+`)', re.M | re.S)
_link = re.compile(r'(!?)(\[[^\]]*\]\()(?![a-z][a-z+.-]*:|[/#])([^)\s]+)')
_tag = re.compile(r'''(<img\b[^>]*?\bsrc=["'])(?![a-z][a-z+.-]*:|[/#])([^"']+)''')

def absolute(text, address, tag):
    "Markdown whose relative links lead to files of a repository; code stays as it is"
    page, raw = f'{address}/blob/{tag}/', f'{address}/raw/{tag}/'
    parts = _code.split(text)
    for i in range(0, len(parts), 2):
        parts[i] = _link.sub(lambda m: m[1] + m[2] + (raw if m[1] else page) + m[3], parts[i])
        parts[i] = _tag.sub(lambda m: m[1] + raw + m[2], parts[i])
    return ''.join(parts)

def with_urls(text, address):
    "pyproject.toml that says where all is"
    if '[project.urls]' in text: return text
    urls = dict(Homepage=address, Source=address, Issues=f'{address}/issues', Changelog=f'{address}/blob/main/CHANGELOG.md')
    table = '[project.urls]\n' + ''.join(f'{k} = "{v}"\n' for k, v in urls.items())
    return text.replace('[project.scripts]', table + '\n[project.scripts]', 1)

if __name__ == '__main__':
    if len(sys.argv) < 2 or not re.fullmatch(r'https://[\w.-]+(/[\w.-]+)+', sys.argv[1].rstrip('/')):
        sys.exit('the address of the repository is wanted, such as https://example.org/somebody/tl_nbdev')
    address, tag = sys.argv[1].rstrip('/'), sys.argv[2] if len(sys.argv) > 2 else 'main'
    for name, change in (('README.md', lambda t: absolute(t, address, tag)), ('pyproject.toml', lambda t: with_urls(t, address))):
        file = root/name
        file.write_text(change(file.read_text(encoding='utf-8')), encoding='utf-8', newline='\n')
