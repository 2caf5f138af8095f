"""(source, query, passage) triples from Debian packages: their documentation, dictionaries and package descriptions.

Writes .cache/data/pairs.json. Sources and licences: models/rankmill-small/README.md.
"""
import glob
import gzip
import json
import os
import random
import re
import subprocess

from lxml import etree, html

from settings import CACHE, SEED

PACKAGES = ('wordnet-base dict-foldoc dict-jargon python3.11-doc postgresql-doc-15 git-doc manpages manpages-dev libreoffice-help-en-us '
            'gimp-help-en debian-handbook octave-doc sqlite3-doc debian-reference-en developers-reference dict-gcide perl-doc apache2-doc '
            'linux-doc-6.1 grass-doc gnucash-docs calculix-ccx-doc snakemake-doc python-sklearn-doc python-statsmodels-doc '
            'python-scipy-doc python-astropy-doc python-pandas-doc python-fluids-doc python-sfepy-doc python-dipy-doc python-nipy-doc '
            'python-nitime-doc python-mdanalysis-doc python-qutip-doc python-biopython-doc kalzium-data').split()
HTML = {
    'handbook': 'doc/debian-handbook/html/en-US/*.html', 'octave': 'doc/octave/octave.html/*.html', 'lohelp': '**/help/en-US/**/*.html',
    'pg': 'doc/postgresql-doc-15/html/*.html', 'gimp': 'gimp/2.0/help/en/*.html', 'python': 'doc/python3.11/html/**/*.html',
    'sqlite': 'doc/sqlite3/*.html', 'git': 'doc/git-doc/**/*.html', 'dref': 'debian-reference/*en*.html', 'devref': 'developers-reference/*.html',
    'apache': 'doc/apache2-doc/manual/en/**/*.html', 'linux': 'doc/linux-doc-6.1/html/**/*.html', 'grass': 'doc/grass-doc/html/*.html',
    'gnucash': 'doc/gnucash-docs/gnucash-guide-en/*.html', 'calculix': 'doc/calculix-ccx-doc/ccx/*.html',
    'snakemake': 'doc/snakemake/html/**/*.html', 'biopython': 'doc/python-biopython-doc/Doc/**/*.html',
    **{name: f'doc/python-{name}-doc/html/**/*.html' for name in
       'sklearn statsmodels scipy astropy pandas fluids sfepy dipy nipy nitime mdanalysis qutip'.split()},
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
    text = open(max(glob.glob(f'{LISTS}/*_main_i18n_Translation-en'), key=os.path.getsize)).read()
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
    for name in ('foldoc', 'jargon', 'gcide'):
        data = gzip.open(ROOT / f'usr/share/dictd/{name}.dict.dz').read()
        for line in open(ROOT / f'usr/share/dictd/{name}.index', encoding='utf8', errors='ignore'):
            word, offset, size = line.rstrip('\n').split('\t')[:3]
            text = data[number(offset):number(offset) + number(size)].decode('utf8', 'ignore')
            passage = clean(re.sub(r'[{}]|\[(1913 Webster|PJC|WordNet 1.5)\]', '', text.split('\n', 1)[-1]))
            if not word.startswith('00') and len(passage) >= (100 if name != 'gcide' else 300):
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
        if '/_modules/' in file or '/whatsnew/' in file:
            continue
        try:
            page = html.parse(file, parser=html.HTMLParser(encoding='utf8')).getroot()
        except (OSError, ValueError):
            continue
        if page is None:
            continue
        for noise in page.xpath('//script|//style|//nav|//header|//footer|//*[contains(@class,"nav") and not(contains(@class,"wy-")) and not(self::body)]'):
            if noise.getparent() is not None:
                noise.drop_tree()
        title, heading, body = clean(' '.join(page.xpath('//title/text()'))), None, []
        for element in [*page.iter('h1', 'h2', 'h3', 'h4', 'p', 'dd', 'li'), None]:
            if element is not None and element.tag not in ('h1', 'h2', 'h3', 'h4'):
                body.append(clean(element.text_content()))
                continue
            passage = ' '.join(body)
            if heading and len(passage) > 150:
                query = clean(re.sub(r'^[\d.A-Z]*\d[\d.]*\s*', '', heading).replace('¶', '').replace('#', '').replace('\uf0c1', ''))
                if re.fullmatch(r'[\w.]+[._]\w+', query):
                    # The page of a function: its summary asks for the rest.
                    query, passage = first_sentence(passage)
                if 6 < len(query) < 120 and len(passage) > 150:
                    short = len(query.split()) < 3 and title
                    yield source, (f'{query} {title.split("—")[0].split(" - ")[0]}'[:120] if short else query), clean(passage)
            heading, body = (clean(element.text_content()) if element is not None else None), []


def first_sentence(text):
    end = re.search(r'[.!?]\s', text)
    return (text[:end.start()], text[end.end():]) if end else ('', text)


def perl():
    plain = lambda text: clean(re.sub(r'[A-Z]<+\s?(?:[^<>]*\|)?([^<>]*?)\s?>+', r'\1', text))
    for file in sorted(glob.glob(f'{ROOT}/usr/share/perl/*/pod/*.pod')):
        title = file.rsplit('/', 1)[-1].removesuffix('.pod').removeprefix('perl')
        for heading, body in re.findall(r'^=head[1-3] (.+)\n((?:(?!=head).*\n)*)', open(file, errors='ignore').read(), re.M):
            text = plain(re.sub(r'^(=.*|[ \t].*)$', '', body, flags=re.M))
            if len(text) > 150 and 6 < len(plain(heading)) < 100:
                yield 'perl', f'{plain(heading)} {title}' if len(heading.split()) < 3 else plain(heading), text


def chemistry():
    for item in etree.parse(f'{ROOT}/usr/share/kalzium/data/knowledge.xml').iter('item'):
        name, text = clean(item.findtext('name') or ''), clean(item.findtext('desc') or '')
        if name and len(text) > 100:
            yield 'kalzium', name, text


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
    found = [*descriptions(rng), *dictionaries(rng), *(t for s, p in HTML.items() for t in sections(s, p)), *manuals(), *perl(), *chemistry()]
    triples = list({passage[:200]: (source, query, passage[:LONGEST]) for source, query, passage in found}.values())
    (CACHE / 'data').mkdir(parents=True, exist_ok=True)
    (CACHE / 'data/pairs.json').write_text(json.dumps(triples))
    print(len(triples), 'pairs')


if __name__ == '__main__':
    main()
