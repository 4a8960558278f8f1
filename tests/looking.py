"Networks that look and write, at a tiny size, each with a processor made on the spot."
import torch
import transformers as tf
from PIL import Image
from tl_nbdev.generation.starts import generator_start
from tl_nbdev.generation.templates import small_tokenizer
from tl_nbdev.multimodal.captioner import caption_pretrained
from tl_nbdev.multimodal.readers import small_processor
from tl_nbdev.vision.zoo import pretrained

tf.logging.set_verbosity_error()
words = 'a red bird sits in a green tree', 'what colour is it', 'Describe the picture.', 'blue white black yellow'
_marks = '<|im_start|>', '<|im_end|>', '<image>'
_sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2,
              max_position_embeddings=160, bos_token_id=None, eos_token_id=1, pad_token_id=1)
_sees = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8)
_template = ("{% for message in messages %}{{ message['role'].capitalize() + ':' }}{% for part in message['content'] %}"
             "{% if part['type'] == 'image' %}<image>{% else %}{{ ' ' + part['text'] }}{% endif %}{% endfor %}{{ '<end_of_utterance>\\n' }}"
             "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}")

def _tokenizer(*more, **special):
    return small_tokenizer(words, None, marks=(*_marks, *more), **{'eos_token': '<|im_end|>', 'pad_token': '<|im_end|>', **special})

def llava():
    processor = small_processor(words)
    config = tf.LlavaConfig(vision_config=tf.CLIPVisionConfig(**_sees), text_config=tf.LlamaConfig(vocab_size=len(processor.tokenizer), **_sizes),
                            image_token_id=processor.image_token_id)
    return tf.LlavaForConditionalGeneration(config), processor

def _split(cls, config, net):
    "Idefics3 and SmolVLM, which cut a large picture into tiles"
    tok = _tokenizer('<fake_token_around_image>', '<global-img>', '<end_of_utterance>', *(f'<row_{i}_col_{j}>' for i in (1, 2) for j in (1, 2)),
                     eos_token='<end_of_utterance>')
    images = getattr(tf, f'{cls}ImageProcessor')(size=dict(longest_edge=32), max_image_size=dict(longest_edge=16))
    processor = getattr(tf, f'{cls}Processor')(images, tok, image_seq_len=1, chat_template=_template)
    sees = getattr(tf, f'{cls}VisionConfig')(**_sees)
    text = tf.LlamaConfig(vocab_size=len(tok), **{**_sizes, 'eos_token_id': tok.eos_token_id, 'pad_token_id': tok.pad_token_id})
    made = getattr(tf, config)(vision_config=sees, text_config=text, image_token_id=tok.convert_tokens_to_ids('<image>'), scale_factor=2,
                               pad_token_id=tok.pad_token_id)
    return getattr(tf, net)(made), processor

def idefics3(): return _split('Idefics3', 'Idefics3Config', 'Idefics3ForConditionalGeneration')
def smolvlm():
    net, processor = _split('Idefics3', 'Idefics3Config', 'Idefics3ForConditionalGeneration')
    config = tf.SmolVLMConfig(**{k: v for k, v in net.config.to_dict().items() if k not in ('model_type', 'vision_config', 'architectures')},
                              vision_config=dict(model_type='smolvlm_vision', **_sees))
    return tf.SmolVLMForConditionalGeneration(config), processor

def idefics():
    tok = _tokenizer('<fake_token_around_image>', '<s>', bos_token='<s>')
    images = tf.IdeficsImageProcessor(image_size=16)
    config = tf.IdeficsConfig(vocab_size=len(tok), additional_vocab_size=0, cross_layer_interval=2, qk_layer_norms=True,
                              **{**_sizes, 'num_hidden_layers': 4, 'bos_token_id': tok.bos_token_id}, use_resampler=True,
                              vision_config=dict(embed_dim=32, image_size=16, patch_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48),
                              perceiver_config=dict(resampler_n_latents=3, resampler_depth=2, resampler_n_heads=2, resampler_head_dim=8,
                                                    qk_layer_norms_perceiver=True))
    return tf.IdeficsForVisionText2Text(config), tf.IdeficsProcessor(images, tok)

def blip():
    from tokenizers import Tokenizer, models, pre_tokenizers, normalizers
    known = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '[DEC]', '[ENC]', *dict.fromkeys(' '.join(words).lower().replace('.', ' .').split())]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, '[UNK]'))
    inner.normalizer, inner.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    tok = tf.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token='[PAD]', unk_token='[UNK]', cls_token='[CLS]', sep_token='[SEP]', mask_token='[MASK]')
    text = dict(vocab_size=len(known), encoder_hidden_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2,
                max_position_embeddings=40, bos_token_id=5, eos_token_id=3, sep_token_id=3, pad_token_id=0)
    config = tf.BlipConfig(text_config=text, vision_config=dict(_sees))
    return tf.BlipForConditionalGeneration(config), tf.BlipProcessor(tf.BlipImageProcessor(size=dict(height=16, width=16)), tok)

makers = dict(llava=llava, idefics=idefics, idefics3=idefics3, smolvlm=smolvlm, blip=blip)

def made(name, seed=0):
    "A network with no weight at zero, in eval mode, and its processor"
    torch.manual_seed(seed)
    net, processor = makers[name]()
    with torch.no_grad():
        for param in net.parameters(): param.add_(.05*torch.randn_like(param))
    return net.eval(), processor

def joined(seed=0):
    "Two random networks that are joined"
    torch.manual_seed(seed)
    tok = _tokenizer()
    net = tf.LlamaForCausalLM(tf.LlamaConfig(vocab_size=len(tok), **_sizes)).eval()
    eyes = pretrained('test_efficientnet', source='random', size=64)
    return caption_pretrained(image=eyes, writer=generator_start(net, tokenizer=tok), pooled=2)

def start(name, **more):
    "A start of a name"
    if name == 'joined': return joined()
    net, processor = made(name)
    return caption_pretrained(net, processor=processor, **more)

every = *makers, 'joined'
colours = dict(red='#d33', blue='#33d', green='#3b3', black='#000', white='#fff', yellow='#fd0')

def pictures(n=12):
    "Pictures of one colour each, in several shapes"
    names = list(colours)
    return [(names[i % 6], Image.new('RGB', (20 + 2*i, 40 - i), colours[names[i % 6]])) for i in range(n)]
