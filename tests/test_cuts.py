"Every class of the table of models, at its real size and without memory, is cut well: whole, in order, heads last, no lump."
import pytest
import torch
import torchvision.models.detection as detection
import transformers as tf
from tl_nbdev.networks.stages import stages
from tl_nbdev.training.learner import transfer_learner
from tl_nbdev.vision.images import ImageTask
from tl_nbdev.vision.zoo import pretrained

_resnet = dict(use_timm_backbone=False, use_pretrained_backbone=False, backbone=None)
_levels = ['stage2', 'stage3', 'stage4']
_clip = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336, patch_size=14)
_smol = dict(vision_config=dict(hidden_size=768, image_size=512, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12, patch_size=16),
             text_config=dict(model_type='llama', vocab_size=49280, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                              num_attention_heads=9, num_key_value_heads=3))
_whisper = dict(d_model=384, encoder_layers=4, decoder_layers=4, encoder_attention_heads=6, decoder_attention_heads=6,
                encoder_ffn_dim=1536, decoder_ffn_dim=1536)
_turbo = dict(num_mel_bins=128, d_model=1280, encoder_layers=32, decoder_layers=4, encoder_attention_heads=20, decoder_attention_heads=20,
              encoder_ffn_dim=5120, decoder_ffn_dim=5120, vocab_size=51866)
_llama8 = dict(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8)
_llama1 = dict(vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
               tie_word_embeddings=True)
_deberta = dict(vocab_size=128100, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, type_vocab_size=0,
                relative_attention=True, position_buckets=256, pos_att_type=['p2c', 'c2p'], share_att_key=True)
_empty = dict(weights=None, weights_backbone=None)

def _rfdetr():
    backbone = tf.RfDetrDinov2Config(hidden_size=384, num_attention_heads=6, image_size=560, out_indices=[2, 5, 8, 11])
    return tf.RfDetrForObjectDetection(tf.RfDetrConfig(backbone_config=backbone))

# name → how it is made, what must be in order, and what must be in the last stage
table = {
    'DETR': (lambda: tf.DetrForObjectDetection(tf.DetrConfig(**_resnet, backbone_config=tf.ResNetConfig(out_features=['stage4']))),
             ['embedder', 'stages.1', 'stages.3.layers.2', 'input_projection', 'encoder.layers.0', 'decoder.layers.0', 'decoder.layers.5', 'bbox_predictor'],
             ['class_labels_classifier', 'bbox_predictor']),
    'Conditional DETR': (lambda: tf.ConditionalDetrForObjectDetection(tf.ConditionalDetrConfig(**_resnet, backbone_config=tf.ResNetConfig(out_features=['stage4']))),
                         ['embedder', 'input_projection', 'model.encoder.layers.5', 'decoder.layers.0', 'bbox_predictor'], ['bbox_predictor']),
    'Deformable DETR': (lambda: tf.DeformableDetrForObjectDetection(tf.DeformableDetrConfig(**_resnet, backbone_config=tf.ResNetConfig(out_features=_levels))),
                        ['embedder', 'input_proj', 'model.encoder.layers.5', 'decoder.layers.0', 'bbox_embed'], ['class_embed', 'bbox_embed']),
    'RT-DETR v2': (lambda: tf.RTDetrV2ForObjectDetection(tf.RTDetrV2Config()),
                   ['embedder', 'encoder_input_proj', 'aifi', 'decoder.layers.0', 'decoder.class_embed'], ['class_embed', 'bbox_embed', 'enc_score_head', 'enc_bbox_head']),
    'D-FINE': (lambda: tf.DFineForObjectDetection(tf.DFineConfig()),
               ['embedder', 'encoder_input_proj', 'aifi', 'decoder.layers.0', 'decoder.class_embed'], ['class_embed', 'bbox_embed', 'enc_score_head']),
    'RF-DETR': (_rfdetr, ['backbone.embeddings', 'encoder.layer.0', 'encoder.layer.11', 'projector', 'decoder.layers.0', 'decoder.layers.2', 'bbox_embed.layers.0'],
                ['class_embed', 'bbox_embed.layers', 'enc_out_bbox_embed', 'enc_out_class_embed']),
    'LW-DETR': (lambda: tf.LwDetrForObjectDetection(tf.LwDetrConfig()), ['embeddings', 'encoder.layer.0', 'decoder.layers.0', 'bbox_embed.layers.0'], ['class_embed', 'bbox_embed.layers']),
    'YOLOS': (lambda: tf.YolosForObjectDetection(tf.YolosConfig()), ['patch_embeddings', 'layer.0', 'layer.11', 'bbox_predictor'], ['class_labels_classifier', 'bbox_predictor']),
    'Faster R-CNN, MobileNet': (lambda: detection.fasterrcnn_mobilenet_v3_large_320_fpn(**_empty),
                                ['body.0', 'body.15', 'fpn', 'rpn.head', 'box_head', 'box_predictor'], ['box_predictor']),
    'Faster R-CNN, ResNet-50': (lambda: detection.fasterrcnn_resnet50_fpn(**_empty),
                                ['body.conv1', 'layer1', 'layer4', 'fpn', 'rpn.head', 'box_head', 'box_predictor'], ['box_predictor']),
    'RetinaNet': (lambda: detection.retinanet_resnet50_fpn(**_empty), ['body.conv1', 'layer4', 'fpn', 'classification_head'], ['head.classification_head', 'head.regression_head']),
    'BERT': (lambda: tf.BertForSequenceClassification(tf.BertConfig()), ['word_embeddings', 'layer.0', 'layer.11', 'classifier'], ['classifier']),
    'DeBERTa v3': (lambda: tf.DebertaV2ForSequenceClassification(tf.DebertaV2Config(**_deberta)), ['word_embeddings', 'layer.0', 'classifier'], ['classifier']),
    'LLaMA 3 8B': (lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**_llama8)), ['embed_tokens', 'layers.0', 'layers.31', 'lm_head'], ['lm_head']),
    'LLaMA 3.2 1B': (lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**_llama1)), ['layers.0', 'layers.15', 'embed_tokens'], ['embed_tokens']),
    'Mistral': (lambda: tf.MistralForCausalLM(tf.MistralConfig()), ['embed_tokens', 'layers.0', 'layers.31', 'lm_head'], ['lm_head']),
    'StarCoder2': (lambda: tf.Starcoder2ForCausalLM(tf.Starcoder2Config()), ['layers.0', 'layers.29', 'embed_tokens'], ['embed_tokens']),
    'T5': (lambda: tf.T5ForConditionalGeneration(tf.T5Config()), ['encoder.block.0', 'encoder.block.5', 'decoder.block.0', 'shared'], ['shared']),
    'Whisper tiny': (lambda: tf.WhisperForConditionalGeneration(tf.WhisperConfig(**_whisper)),
                     ['conv1', 'encoder.layers.0', 'encoder.layers.3', 'decoder.layers.0', 'decoder.layers.3', 'embed_tokens'], ['embed_tokens']),
    'Whisper turbo': (lambda: tf.WhisperForConditionalGeneration(tf.WhisperConfig(**_turbo)),
                      ['conv1', 'encoder.layers.31', 'decoder.layers.0', 'embed_tokens'], ['embed_tokens']),
    'wav2vec 2.0': (lambda: tf.Wav2Vec2ForCTC(tf.Wav2Vec2Config()), ['feature_extractor', 'layers.0', 'layers.11', 'lm_head'], ['lm_head']),
    'CLIP': (lambda: tf.CLIPModel(tf.CLIPConfig()), ['token_embedding', 'layers.0', 'layers.11', 'text_projection'], ['text_projection', 'visual_projection']),
    'LLaVA': (lambda: tf.LlavaForConditionalGeneration(tf.LlavaConfig(vision_config=tf.CLIPVisionConfig(**_clip), text_config=tf.LlamaConfig(vocab_size=32064))),
              ['patch_embedding', 'vision_tower.encoder.layers.23', 'multi_modal_projector', 'embed_tokens', 'language_model.layers.0', 'lm_head'], ['lm_head']),
    'Idefics 2': (lambda: tf.Idefics2ForConditionalGeneration(tf.Idefics2Config()),
                  ['patch_embedding', 'vision_model.encoder.layers.11', 'modality_projection', 'text_model.layers.0', 'lm_head'], ['lm_head']),
    'SmolVLM': (lambda: tf.Idefics3ForConditionalGeneration(tf.Idefics3Config(**_smol)),
                ['patch_embedding', 'vision_model.encoder.layers.11', 'modality_projection', 'text_model.layers.0', 'lm_head'], ['lm_head']),
    'Flamingo (Idefics)': (lambda: tf.IdeficsForVisionText2Text(tf.IdeficsConfig(vocab_size=32000, cross_layer_interval=4, use_resampler=True)),
                           ['patch_embedding', 'perceiver_resampler', 'gated_cross_attn_layers.0', 'model.layers.0', 'model.layers.3', 'gated_cross_attn_layers.1',
                            'model.layers.4', 'model.layers.31', 'lm_head'], ['lm_head']),
}

@pytest.fixture(scope='module')
def made(): # each once: the largest has thousands of modules
    kept = {}
    def make(name):
        if name not in kept:
            with torch.device('meta'): kept[name] = table[name][0]()
        return kept[name]
    return make

def _depth(found, words):
    "Of the stage where a name with these words first appears"
    return next(stage.depth for stage in found for name in stage.params if f'.{words}.' in f'.{name}')

@pytest.mark.parametrize('name', table)
def test_cut(made, name):
    net, (_, order, last) = made(name), table[name]
    found = stages(net)
    ids = [id(param) for stage in found for param in stage.params.values()]
    assert len(ids) == len(set(ids)) and set(ids) == {id(param) for param in net.parameters()}
    depths = [_depth(found, words) for words in order]
    assert depths == sorted(depths) and depths[0] <= 1 < depths[-1], dict(zip(order, depths))
    for words in last: assert _depth(found, words) == len(found) - 1, words
    total, most = sum(stage.n for stage in found), max(found, key=lambda stage: stage.n)
    tables = sum(param.numel() for name, param in most.params.items() if 'embed' in name)
    assert len(found) <= 12 or most.n <= total/4 or len(most.params) == 1 or tables > .9*most.n, (most.name, most.n/total)

def test_the_projector_of_llava_can_be_trained_alone(made):
    alone = [stage for stage in stages(made('LLaVA')) if any('multi_modal_projector' in name for name in stage.params)]
    assert len(alone) == 1 and all('multi_modal_projector' in name for name in alone[0].params)


# what was frozen when it was made

class Placed(torch.nn.Module):
    "Patches, to which a table of sines is added, which is a parameter for want of something better"
    def __init__(self):
        super().__init__()
        self.patches, self.sines = torch.nn.Conv2d(3, 8, 8, 8), torch.nn.Parameter(torch.arange(64.).sin()[None, None], requires_grad=False)
        self.mix, self.fc = torch.nn.Linear(8, 8), torch.nn.Linear(8, 5)
    def forward(self, x):
        x = self.patches(x).flatten(2)
        return self.fc(self.mix((x + self.sines[..., :x.shape[-1]]).transpose(1, 2)).relu().mean(1))

@pytest.fixture(scope='module')
def task(tmp_path_factory):
    from conftest import photos
    return ImageTask.from_folder(photos(tmp_path_factory.mktemp('photos'), 6))

@pytest.mark.parametrize('how', ['full', 'gradual', 'last:2', 'full+l2sp'])
def test_constants_stay_and_the_rest_trains(task, how):
    learn = transfer_learner(task, pretrained(Placed(), size=32), bs=4, seed=0)
    assert 'Constants stay as they are (body.' in learn.plan(how).about
    before = {name: param.detach().clone() for name, param in learn.model.named_parameters()}
    with learn.no_bar(), learn.no_logging(): learn.transfer(how, 3)
    same = {name for name, param in learn.model.named_parameters() if torch.equal(param, before[name])}
    assert [name for name in same if 'sines' in name] and not [name for name in same if 'mix' in name]
    with learn.no_bar(), learn.no_logging():
        learn.unfreeze()
        learn.fit(1)
    assert all(torch.equal(param, before[name]) for name, param in learn.model.named_parameters() if 'sines' in name)

def test_what_came_frozen_is_said_and_trains_where_a_strategy_says_so(task):
    net = Placed()
    for param in net.patches.parameters(): param.requires_grad_(False)
    learn = transfer_learner(task, pretrained(net, size=32), bs=4, seed=0)
    about = learn.plan('full').about
    assert 'of the parameters came frozen (body.' in about and 'patches' in about
    before = [param.detach().clone() for name, param in learn.model.named_parameters() if 'patches' in name]
    with learn.no_bar(), learn.no_logging(): learn.transfer('full', 2)
    after = [param for name, param in learn.model.named_parameters() if 'patches' in name]
    assert before and not any(map(torch.equal, before, after))
