"""(source, query, passage) triples from Debian packages: their documentation, dictionaries and package descriptions.

Writes .cache/data/pairs.json. Sources and licences: models/rankmill-small/README.md.
"""
import glob
import gzip
import json
import random
import re
import subprocess

from lxml import html

from settings import CACHE, SEED

PACKAGES = ('wordnet-base dict-foldoc dict-jargon python3.11-doc postgresql-doc-15 git-doc manpages manpages-dev libreoffice-help-en-us '
            'gimp-help-en debian-handbook octave-doc sqlite3-doc debian-reference-en developers-reference').split()
HTML = {
    'handbook': 'doc/debian-handbook/html/en-US/*.html', 'octave': 'doc/octave/octave.html/*.html', 'lohelp': '**/help/en-US/**/*.html',
    'pg': 'doc/postgresql-doc-15/html/*.html', 'gimp': 'gimp/2.0/help/en/*.html', 'python': 'doc/python3.11/html/**/*.html',
    'sqlite': 'doc/sqlite3/*.html', 'git': 'doc/git-doc/**/*.html', 'dref': 'debian-reference/*en*.html', 'devref': 'developers-reference/*.html',
}
LONGEST = 1300  # characters: shorter passages make a model that is bad at abstracts
ROOT, LISTS = CACHE / 'debian', CACHE / 'apt'


def clean(text):
    return re.sub(r'\s+', ' ', text).strip()


def download():
    """Unpacks the packages, and fetches the English package descriptions into a folder of their own."""
    if (ROOT / 'done').exists():
        return
    debs = CACHE / 'debs'
    for folder in (ROOT, debs, LISTS / 'partial'):
        folder.mkdir(parents=True, exist_ok=True)
    apt = ['apt-get', '-o', f'Dir::State::Lists={LISTS}', '-o', 'Acquire::Languages=en', '-o', 'Acquire::GzipIndexes=false']
    subprocess.run([*apt, 'update', '-qq'], check=True)
    subprocess.run([*apt, 'download', *PACKAGES], check=True, cwd=debs)
    for deb in debs.glob('*.deb'):
        subprocess.run(['dpkg', '-x', deb, ROOT], check=True)
    (ROOT / 'done').touch()


def descriptions(rng):
    text = open(glob.glob(f'{LISTS}/*_main_i18n_Translation-en')[-1]).read()
    for stanza in text.split('\n\n'):
        name = re.search(r'^Package: (\S+)', stanza, re.M)
        found = re.search(r'^Description-en: (.*)\n((?: .*\n?)*)', stanza, re.M)
        if not name or not found:
            continue
        passage = clean(re.sub(r'^ \.$', '', found.group(2), flags=re.M))
        # Libraries come in dozens of near copies.
        dull = name.group(1).startswith(('librust-', 'golang-', 'lib')) or re.search(r'(-dev|-dbg|-doc|-l10n-.*|-common|-data)$', name.group(1))
        if len(passage) >= 120 and (not dull or rng.random() < .15):
            yield 'deb', clean(found.group(1)), passage


def dictionaries(rng):
    alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'
    number = lambda digits: sum(alphabet.index(c) * 64 ** i for i, c in enumerate(reversed(digits)))
    for name in ('foldoc', 'jargon'):
        data = gzip.open(ROOT / f'usr/share/dictd/{name}.dict.dz').read()
        for line in open(ROOT / f'usr/share/dictd/{name}.index', encoding='utf8', errors='ignore'):
            word, offset, size = line.rstrip('\n').split('\t')[:3]
            text = data[number(offset):number(offset) + number(size)].decode('utf8', 'ignore')
            passage = clean(re.sub(r'[{}]', '', text.split('\n', 1)[-1]))
            if not word.startswith('00') and len(passage) >= 100:
                yield name, rng.choice([word, f'what is {word}', f'{word} definition', f'meaning of {word}']), passage
    for part in ('noun', 'verb', 'adj'):
        for line in open(ROOT / f'usr/share/wordnet/data.{part}', encoding='latin1'):
            if line.startswith('  ') or rng.random() > .25:
                continue
            left, gloss = line.split(' | ', 1)
            fields = left.split(' ')
            words = [fields[4 + 2 * i].replace('_', ' ') for i in range(int(fields[3], 16))]
            if len(clean(gloss)) >= 60:
                word = rng.choice(words)
                yield 'wn', rng.choice([word, f'what is {word}', f'define {word}']), clean(gloss)


def sections(source, pattern):
    """Headings ask for the text below them."""
    for file in sorted(glob.glob(f'{ROOT}/usr/share/{pattern}', recursive=True)):
        try:
            page = html.parse(file, parser=html.HTMLParser(encoding='utf8')).getroot()
        except (OSError, ValueError):
            continue
        if page is None:
            continue
        for noise in page.xpath('//script|//style|//nav|//header|//footer|//*[contains(@class,"nav")]'):
            if noise.getparent() is not None:
                noise.drop_tree()
        title, heading, body = clean(' '.join(page.xpath('//title/text()'))), None, []
        for element in [*page.iter('h1', 'h2', 'h3', 'h4', 'p', 'dd', 'li'), None]:
            if element is not None and element.tag not in ('h1', 'h2', 'h3', 'h4'):
                body.append(clean(element.text_content()))
                continue
            passage = ' '.join(body)
            if heading and len(passage) > 150:
                query = clean(re.sub(r'^[\d.A-Z]*\d[\d.]*\s*', '', heading).replace('¶', '').replace('#', ''))
                if 6 < len(query) < 120:
                    short = len(query.split()) < 3 and title
                    yield source, (f'{query} {title.split("—")[0].split(" - ")[0]}'[:120] if short else query), clean(passage)
            heading, body = (clean(element.text_content()) if element is not None else None), []


def manuals():
    plain = lambda text: clean(re.sub(r'\\f.|\\-|\\&|\\\(..', '', re.sub(r'^\.[A-Za-z]+\s?', '', re.sub(r'^\.\\".*$', '', text, flags=re.M), flags=re.M)))
    for file in sorted(glob.glob(f'{ROOT}/usr/share/man/man*/*.gz')):
        text = gzip.open(file, 'rt', errors='ignore').read()
        name = re.search(r'\.SH NAME\n(.+?)\n\.SH', text, re.S)
        description = re.search(r'\.SH DESCRIPTION\n(.+?)\n\.SH', text, re.S)
        if name and description:
            query, passage = plain(clean(name.group(1)).split('\\-')[-1]), plain(description.group(1))
            if len(passage) > 120 and 8 < len(query) < 120:
                yield 'man', query, passage


def main():
    rng = random.Random(SEED)
    download()
    found = [*descriptions(rng), *dictionaries(rng), *(t for s, p in HTML.items() for t in sections(s, p)), *manuals()]
    triples = list({passage[:200]: (source, query, passage[:LONGEST]) for source, query, passage in found}.values())
    (CACHE / 'data').mkdir(parents=True, exist_ok=True)
    (CACHE / 'data/pairs.json').write_text(json.dumps(triples))
    print(len(triples), 'pairs')


if __name__ == '__main__':
    main()
