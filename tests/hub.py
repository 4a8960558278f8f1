"""A model hub on loopback: folders served as repositories, with all that a real one does to its clients, also when it fails.

    with Hub() as hub:
        hub.add('google/vit-tiny', folder, licence='mit')
        hub.fault('google/vit-tiny', 'model.safetensors', 'cut', times=1)

Large files (`.safetensors`, `.bin`, …) lie behind a redirect, as they do on a hub, with `X-Linked-Size` and `X-Linked-Etag`.
"""
import base64, fnmatch, hashlib, json, re, socket, threading, time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

good_token, other_token = 'hf_' + 'g'*34, 'hf_' + 'o'*34 # the first may enter gated repositories, the second may not
_large = '.safetensors', '.bin', '.pt', '.h5', '.onnx', '.gguf', '.model', '.msgpack', '.pt2'
faults = 'cut', 'short', 'hang', '429', '500', '503' # `cut`: ends in the middle; `short`: whole, but shorter than was said

def sha1(data): return hashlib.sha1(data).hexdigest()
def sha256(data): return hashlib.sha256(data).hexdigest()


# what is there

@dataclass
class Repo:
    "A repository: its commits, oldest first, each with name → content, and what it is called by"
    name: str
    gated: bool = False
    private: bool = False
    downloads: int = 0
    tags: tuple = ()
    commits: dict = field(default_factory=dict)  # commit → {path: bytes}
    refs: dict = field(default_factory=dict)     # branch or tag → commit

    def commit(self, files, ref='main'):
        "Add a state of all files, and let a branch or tag mean it"
        listing = '\n'.join(f'{path} {sha256(data)}' for path, data in sorted(files.items()))
        sha = sha1(f'{len(self.commits)} {ref} {listing}'.encode())
        self.commits[sha], self.refs[ref] = dict(files), sha
        return sha

    def find(self, revision):
        "The commit of a branch, tag, commit, or beginning of one, `None` where there is none"
        if revision in self.refs: return self.refs[revision]
        if re.fullmatch('[0-9a-f]{7,40}', revision):
            return next((sha for sha in self.commits if sha.startswith(revision)), None)

    def card(self, sha):
        "What the head of the README says, as flat names and words"
        text = self.commits[sha].get('README.md', b'').decode('utf-8', 'replace')
        head = re.match(r'---\n(.*?)\n---', text, re.S)
        pairs = re.findall(r'^(\w+):[ ]*(\S.*)$', head[1], re.M) if head else []
        return {key: value.strip() for key, value in pairs}

    def info(self, sha, blobs=False):
        "What the hub's interface says of it"
        files, card = self.commits[sha], self.card(sha)
        config = json.loads(files['config.json']) if 'config.json' in files else {}
        kind = 'timm' if 'architecture' in config else 'transformers' if 'model_type' in config else None
        tags = [*self.tags, *([kind] if kind else []), *([f'license:{card["license"]}'] if 'license' in card else []),
                *(['safetensors'] if any(name.endswith('.safetensors') for name in files) else [])]
        task = card.get('pipeline_tag') or self.pipeline(config)
        return dict(_id=sha1(self.name.encode())[:24], id=self.name, modelId=self.name, author=self.name.partition('/')[0],
                    sha=sha, private=self.private, gated='manual' if self.gated else False, disabled=False,
                    downloads=self.downloads, likes=0, tags=tags + ([task] if task else []), library_name=kind,
                    pipeline_tag=task, cardData=card, config=dict(model_type=config.get('model_type')),
                    lastModified='2026-01-01T00:00:00.000Z', createdAt='2026-01-01T00:00:00.000Z',
                    siblings=[self.entry(name, data, blobs) for name, data in files.items()])

    @staticmethod
    def pipeline(config):
        named = ' '.join(config.get('architectures') or [])
        if 'architecture' in config or 'ForImageClassification' in named: return 'image-classification'
        if 'vision_config' in config: return 'zero-shot-image-classification'
        if 'ForMaskedLM' in named: return 'fill-mask'
        if 'ForCausalLM' in named: return 'text-generation'
        if 'ForSequenceClassification' in named: return 'text-classification'
        return 'image-feature-extraction' if 'image_size' in config else 'feature-extraction' if config else None

    @staticmethod
    def entry(name, data, blobs=True):
        more = dict(size=len(data), blobId=sha1(data)) if blobs else {}
        if blobs and name.endswith(_large): more['lfs'] = dict(sha256=sha256(data), size=len(data), pointerSize=134)
        return dict(rfilename=name, **more)

    @staticmethod
    def tree_entry(name, data):
        large = dict(lfs=dict(oid=sha256(data), size=len(data), pointerSize=134)) if name.endswith(_large) else {}
        return dict(type='file', path=name, size=len(data), oid=sha1(b'blob %d\0' % len(data) + data), **large)


# who answers

class Answers(BaseHTTPRequestHandler):
    protocol_version, hub = 'HTTP/1.1', None
    def log_message(self, *args): pass

    def do_HEAD(self): self.answer()
    def do_GET(self): self.answer()
    def do_POST(self): self.answer()
    def do_PUT(self): self.answer()
    def do_DELETE(self): self.answer()

    def answer(self):
        self.url = urlsplit(self.path)
        self.place = unquote(self.url.path)
        self.query = {key: values[-1] for key, values in parse_qs(self.url.query).items()}
        self.body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        self.token = (self.headers.get('Authorization') or '').removeprefix('Bearer ').strip()
        self.hub.asked.append(f'{self.command} {self.path}')
        try:
            for pattern, method in self.routes:
                found = re.fullmatch(pattern, self.place)
                if found and self.let_in(found.groupdict().get('repo')): return method(self, **found.groupdict())
                if found: return
            self.say(404, dict(error='Not Found'))
        except (BrokenPipeError, ConnectionResetError): self.close_connection = True

    def say(self, status, content=b'', **headers):
        "Answer in JSON, or with bytes"
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        if not isinstance(content, bytes): self.send_header('Content-Type', 'application/json')
        for name, value in headers.items(): self.send_header(name.replace('_', '-'), value)
        if 'Content_Length' not in headers: self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(data)

    def no(self, status, code, message): self.say(status, dict(error=message), X_Error_Code=code, X_Error_Message=message)

    def let_in(self, repo):
        "May they see this repository? If not, they have been told so"
        if self.token and self.token not in (good_token, other_token):
            self.say(401, dict(error='Invalid credentials in Authorization header'),
                     X_Error_Message='Invalid credentials in Authorization header')
            return False
        if repo is None: return True
        repo = self.hub.called.get(repo, repo)
        if repo not in self.hub.repos or self.hub.repos[repo].private and self.token != good_token:
            self.no(404 if self.token else 401, 'RepoNotFound', 'Repository not found')
            return False
        files = '/resolve/' in self.place
        if not self.hub.repos[repo].gated or self.token == good_token or not files: return True
        self.no(403 if self.token else 401, 'GatedRepo', f'Access to model {repo} is restricted')
        return False

    # files

    def file(self, repo, revision, path):
        if repo in self.hub.called: # a name from before there were owners
            return self.say(307, Location=f'/{self.hub.called[repo]}/resolve/{quote(revision, safe="")}/{quote(path)}')
        repo = self.hub.repos[repo]
        fault = self.hub.fails(repo.name, path, self.command)
        if fault in ('429', '500', '503'): return self.say(int(fault), dict(error='later'), Retry_After='0')
        sha = repo.find(revision)
        if sha is None: return self.no(404, 'RevisionNotFound', f'Invalid rev id: {revision}')
        data = repo.commits[sha].get(path)
        if data is None: return self.say(404, b'Entry not found', X_Error_Code='EntryNotFound',
                                         X_Error_Message='Entry not found', X_Repo_Commit=sha)
        if fault == 'hang' and not path.endswith(_large): return self.hang()
        if not path.endswith(_large):
            return self.give(data, fault, ETag=f'"{sha1(data)}"', X_Repo_Commit=sha)
        self.hub.blobs[sha256(data)] = data
        where = f'{self.hub.elsewhere}/cdn/{quote(repo.name)}/{sha256(data)}/{quote(path)}'
        self.say(302, Location=where, X_Linked_Size=str(len(data)), X_Linked_Etag=f'"{sha256(data)}"',
                 ETag=f'"{sha1(data)}"', X_Repo_Commit=sha)

    def blob(self, owner, name, digest, path):
        fault = self.hub.fails(f'{owner}/{name}', path, 'cdn')
        if fault == 'hang': return self.hang()
        self.give(self.hub.blobs[digest], fault, ETag=f'"{digest}"')

    def give(self, data, fault=None, **headers):
        "The bytes, or the part that is asked for, or what is left of them by a fault"
        status, said = 200, re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range') or '')
        if said:
            first, last = int(said[1]), min(int(said[2] or len(data)), len(data) - 1)
            if first >= len(data): return self.say(416, Content_Range=f'bytes */{len(data)}')
            headers['Content_Range'] = f'bytes {first}-{last}/{len(data)}'
            status, data = 206, data[first:last + 1]
        headers.setdefault('Accept_Ranges', 'bytes')
        if fault == 'short': data = data[:len(data)//2]
        if fault != 'cut' or self.command == 'HEAD': return self.say(status, data, **headers)
        self.send_response(status)
        for name, value in headers.items(): self.send_header(name.replace('_', '-'), value)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data[:len(data)//2])
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def hang(self):
        "Say nothing, until they give up or the hub ends"
        self.hub.ended.wait(self.hub.patience)
        self.close_connection = True

    # what it says of them

    def state(self, repo, revision):
        repo = self.hub.repos[self.hub.called.get(repo, repo)]
        sha = repo.find(revision or 'main')
        if sha is None: self.no(404, 'RevisionNotFound', f'Invalid rev id: {revision}')
        return repo, sha

    def model(self, repo, revision=None):
        if fault := self.hub.fails(self.hub.called.get(repo, repo), '(info)', self.command):
            return self.hang() if fault == 'hang' else self.say(int(fault), dict(error='later'), Retry_After='0')
        repo, sha = self.state(repo, revision)
        if sha: self.say(200, repo.info(sha, 'blobs' in self.query), X_Repo_Commit=sha)

    def tree(self, repo, revision, path=''):
        repo, sha = self.state(repo, revision)
        if not sha: return
        files = {name: data for name, data in repo.commits[sha].items() if name.startswith(f'{path}/' if path else '')}
        if path and not files: return self.no(404, 'EntryNotFound', f'{path} does not exist')
        self.say(200, [repo.tree_entry(*each) for each in files.items()], X_Repo_Commit=sha)

    def paths(self, repo, revision):
        repo, sha = self.state(repo, revision)
        if not sha: return
        if self.headers.get('Content-Type', '').startswith('application/json'): asked = json.loads(self.body)['paths']
        else: asked = parse_qs(self.body.decode())['paths']
        files = repo.commits[sha]
        self.say(200, [repo.tree_entry(name, files[name]) for name in asked if name in files])

    def search(self):
        "Those whose name has the words, and that have all tags which are asked for"
        if fault := self.hub.fails('', '(search)', self.command):
            return self.hang() if fault == 'hang' else self.say(int(fault), dict(error='later'), Retry_After='0')
        asked = parse_qs(self.url.query)
        words, wanted = self.query.get('search', '').lower(), asked.get('filter', []) + asked.get('pipeline_tag', [])
        wanted = {tag for each in wanted for tag in each.split(',')}
        found = [repo.info(repo.refs['main'], True) for name, repo in self.hub.repos.items()
                 if words in name.lower() and (not repo.private or self.token == good_token)]
        found = [info for info in found if wanted <= {*info['tags'], info['pipeline_tag']}]
        found.sort(key=lambda info: -info['downloads'])
        self.say(200, found[:int(self.query.get('limit', 100))])

    def who(self):
        if not self.token: return self.say(401, dict(error='Invalid username or password.'))
        self.say(200, dict(type='user', id='1', name='me', fullname='me', orgs=[], auth=dict(accessToken=dict(role='write'))))

    # what is brought

    def writes(self):
        if self.token == good_token: return True
        self.say(403 if self.token else 401, dict(error='You need a token that may write'))
        return False

    def create(self):
        if not self.writes(): return
        said = json.loads(self.body)
        name = f'{said.get("organization") or "me"}/{said["name"]}'
        if name in self.hub.repos: return self.say(409, dict(error='You already created this model repo', url=self.hub.url + '/' + name))
        self.hub.repos[name] = Repo(name, private=bool(said.get('private') or said.get('visibility') == 'private'))
        self.hub.repos[name].commit({'.gitattributes': b'*.safetensors filter=lfs\n'})
        self.say(200, dict(url=f'{self.hub.url}/{name}', id=name, name=name))

    def modes(self, repo, revision):
        if not self.writes(): return
        mode = lambda path: 'lfs' if path.endswith(_large) else 'regular'
        files = json.loads(self.body)['files']
        self.say(200, dict(files=[dict(path=o['path'], uploadMode=mode(o['path']), shouldIgnore=False) for o in files]))

    def batch(self, repo):
        if not self.writes(): return
        said = json.loads(self.body)
        def action(o):
            return {} if o['oid'] in self.hub.blobs else dict(actions=dict(upload=dict(href=f'{self.hub.url}/upload/{o["oid"]}', header={})))
        self.say(200, dict(transfer='basic', objects=[dict(oid=o['oid'], size=o['size'], **action(o)) for o in said['objects']]))

    def upload(self, digest):
        if fault := self.hub.fails('', '(upload)', self.command): return self.say(int(fault), dict(error='later'), Retry_After='0')
        if sha256(self.body) != digest: return self.say(400, dict(error='another digest'))
        self.hub.blobs[digest] = self.body
        self.say(200)

    def add(self, repo, revision):
        if not self.writes(): return
        repo = self.hub.repos[repo]
        if revision not in repo.refs: return self.no(404, 'RevisionNotFound', f'Invalid rev id: {revision}')
        files = dict(repo.commits[repo.refs[revision]])
        for line in self.body.splitlines():
            said = json.loads(line)
            value = said['value']
            if said['key'] == 'file': files[value['path']] = base64.b64decode(value['content'])
            elif said['key'] == 'lfsFile': files[value['path']] = self.hub.blobs[value['oid']]
            elif said['key'] == 'deletedFile': files.pop(value['path'], None)
            elif said['key'] == 'deletedFolder': files = {k: v for k, v in files.items() if not k.startswith(value['path'])}
        sha = repo.commit(files, revision)
        self.say(200, dict(success=True, commitOid=sha, commitUrl=f'{self.hub.url}/{repo.name}/commit/{sha}', hookOutput=''))

    def branch(self, repo, ref):
        if not self.writes(): return
        repo, said = self.hub.repos[repo], json.loads(self.body or b'{}')
        name = said.get('tag') or ref
        if name in repo.refs: return self.say(409, dict(error=f'Reference already exists: {name}'))
        repo.refs[name] = repo.find(said.get('startingPoint') or ref if said.get('tag') else 'main') or repo.refs['main']
        self.say(200, dict(success=True))

    def checked(self): self.say(200, dict(errors=[], warnings=[]))

    _repo, _one = r'(?P<repo>[^/]+(?:/[^/]+)?)', r'(?P<repo>[^/]+/[^/]+)'
    routes = [
        (r'/api/models', search), (r'/api/whoami-v2', who), (r'/api/repos/create', create),
        (r'/api/validate-yaml', checked),
        (rf'/api/models/{_one}/revision/(?P<revision>.+)', model),
        (rf'/api/models/{_one}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?', tree),
        (rf'/api/models/{_one}/paths-info/(?P<revision>.+)', paths),
        (rf'/api/models/{_one}/preupload/(?P<revision>.+)', modes),
        (rf'/api/models/{_one}/commit/(?P<revision>.+)', add),
        (rf'/api/models/{_one}/(?:branch|tag)/(?P<ref>.+)', branch),
        (r'/api/models/(?P<repo>[^/]+)/revision/(?P<revision>.+)', model),
        (r'/api/models/(?P<repo>[^/]+)/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?', tree),
        (rf'/api/models/{_repo}', model),
        (rf'/{_one}\.git/info/lfs/objects/batch', batch), (r'/upload/(?P<digest>\w+)', upload),
        (r'/cdn/(?P<owner>[^/]+)/(?P<name>[^/]+)/(?P<digest>\w+)/(?P<path>.+)', blob),
        (r'/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)', file),
        (r'/(?P<repo>[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)', file)]


# the hub

def _files(what):
    "name → content, of a folder or as it is given"
    if isinstance(what, dict): return {k: v if isinstance(v, bytes) else v.encode() for k, v in what.items()}
    what = Path(what)
    return {file.relative_to(what).as_posix(): file.read_bytes() for file in sorted(what.rglob('*')) if file.is_file()}

class Hub:
    "Serves until `close`; `url` is where, `asked` what was asked, in order"
    def __init__(self, patience=300):
        self.repos, self.called, self.blobs, self.asked, self.patience = {}, {}, {}, [], patience
        self.faulty, self.ended = [], threading.Event()
        answers = type('Answers', (Answers,), dict(hub=self))
        self.server = ThreadingHTTPServer(('127.0.0.1', 0), answers)
        self.server.daemon_threads = True
        self.url = f'http://127.0.0.1:{self.server.server_port}'
        self.elsewhere = f'http://localhost:{self.server.server_port}' # of large files: another host, as it should be
        threading.Thread(target=self.server.serve_forever, kwargs=dict(poll_interval=.05), daemon=True).start()

    def add(self, name, what, ref='main', licence=None, **facts):
        "A repository, or another state of one, with the files of a folder (or name → content); returns the commit"
        files = _files(what)
        if licence and 'README.md' not in files: files['README.md'] = f'---\nlicense: {licence}\n---\n# {name}\n'.encode()
        repo = self.repos.setdefault(name, Repo(name))
        for key, value in facts.items(): setattr(repo, key, value)
        sha = repo.commit(files, ref)
        repo.refs.setdefault('main', sha)
        return sha

    def alias(self, old, name):
        "Let a name without an owner lead to a repository"
        self.called[old] = name

    def fault(self, name, path, kind, times=None):
        "Let a file (or `*`, `(info)`, `(search)`) fail, always or so many times"
        assert kind in faults, kind
        self.faulty.append([name, path, kind, times])

    def mend(self): self.faulty.clear()

    def fails(self, name, path, command):
        "The kind of fault that is due, if there is one"
        for fault in self.faulty:
            where, pattern, kind, times = fault
            if where not in (name, '*') or not (pattern == path or fnmatch.fnmatchcase(path, pattern) and '(' not in path): continue
            if kind in ('cut', 'short', 'hang') and (command == 'HEAD' or command == 'GET' and path.endswith(_large)): continue
            if times == 0: continue
            if times is not None: fault[3] -= 1
            return kind

    def close(self):
        "Nobody answers any more"
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self): return self
    def __exit__(self, *args): self.close()
