"""gallery.py PENSTOCK OUT.png : the README's picture, twelve prompts with the model that ships."""
import subprocess, sys, tempfile
from PIL import Image, ImageDraw, ImageFont
PROMPTS = ['a red circle above a blue square', 'three green stars on a white background', 'a large yellow triangle left of a black square', 'a large red star on a white background',
           'a white star above a blue circle', 'a red sign that says OK', 'a small green square at night', 'a purple triangle in the desert', 'two orange squares',
           'a red square by the sea', 'a blue star below a white triangle', 'a yellow star in a meadow']
sheet = Image.new('RGB', (6 * 140, 2 * 168), 'white'); draw = ImageDraw.Draw(sheet)
font = ImageFont.load_default(size=11)
with tempfile.TemporaryDirectory() as folder:
    for i, p in enumerate(PROMPTS):
        subprocess.run([sys.argv[1], 'generate', '-q', '-p', p, '-s', '7', '-o', folder + '/x.png'], check=True)
        x, y = i % 6 * 140, i // 6 * 168
        sheet.paste(Image.open(folder + '/x.png'), (x + 6, y + 4))
        lines = ['']
        for word in p.split():
            if draw.textlength(lines[-1] + ' ' + word, font) > 128:
                lines.append('')
            lines[-1] = (lines[-1] + ' ' + word).strip()
        for k, l in enumerate(lines):
            draw.text((x + 70, y + 136 + 13 * k), l, 'black', font, anchor='ma')
sheet.save(sys.argv[2], optimize=True)
