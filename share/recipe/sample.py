"""sample.py FOLDER PROMPTS.txt OUTDIR [G=4.5] [STEPS=20] [BATCH=16] : the reference pictures, with diffusers' own pipeline at f32.
Each picture's noise comes from its own seed (torch.Generator on CPU)."""
import sys, os, json, torch
from diffusers import PixArtSigmaPipeline
F, P, O = sys.argv[1:4]
G = float(sys.argv[4]) if len(sys.argv) > 4 else 4.5
ST = int(sys.argv[5]) if len(sys.argv) > 5 else 20
B = int(sys.argv[6]) if len(sys.argv) > 6 else 16
os.makedirs(O, exist_ok=True)
pipe = PixArtSigmaPipeline.from_pretrained(F, torch_dtype=torch.float32); pipe.set_progress_bar_config(disable=True)
q = [json.loads(l) for l in open(P)]
for lo in range(0, len(q), B):
    c = q[lo:lo + B]
    im = pipe(prompt=[x['prompt'] for x in c], negative_prompt='', num_inference_steps=ST, guidance_scale=G, height=128, width=128, max_sequence_length=32, use_resolution_binning=False,
              clean_caption=False, generator=[torch.Generator().manual_seed(x['seed']) for x in c]).images
    for x, i in zip(c, im): i.save(os.path.join(O, '%04d.png' % x['index']))
