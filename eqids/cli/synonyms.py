"""Names of flags in other software, and our flags for them."""

import re
from dataclasses import dataclass

_TABLE = """
--learning_rate
    lr peak_lr max_lr base_lr initial_lr learn_rate eta
--llama_learning_rate
    llama_lr backbone_lr encoder_lr
--batch_size
    b bs batch bsz train_batch_size train_bs mini_batch_size micro_batch_size
    global_batch_size per_device_train_batch_size per_gpu_train_batch_size
    per_device_batch_size
--num_steps
    steps max_steps train_steps total_steps num_train_steps max_train_steps
    training_steps iters iterations max_iters num_iters num_iterations n_iter
    n_steps
--epochs
    e epoch epochs num_epochs n_epochs nb_epochs max_epochs num_train_epochs
    train_epochs
--max_minutes
    max_time time_limit max_hours max_seconds train_minutes time_budget
    max_train_time
--accumulate
    gradient_accumulation_steps gradient_accumulation grad_accum grad_acc
    grad_accum_steps accumulation_steps accumulate_grad_batches accum accum_steps
--weight_decay
    wd decay l2 l2_reg l2_weight reg_weight weight_decay_rate
wanted --warmup_steps: the share of --num_steps times that
    warmup_ratio warmup_fraction warmup_proportion warmup_epochs
--warmup_steps
    warmup num_warmup_steps lr_warmup_steps warm_up warmup_iters
--grad_clip
    clip max_grad_norm gradient_clip gradient_clip_val gradient_clipping clip_grad
    clip_grad_norm clip_norm max_norm grad_norm clip_gradients
--schedule
    scheduler lr_scheduler lr_scheduler_type lr_schedule lr_decay scheduler_type
    lr_decay_style
wanted --item_optimizer for item tables; AdamW updates the rest
    optim optimizer opt optimizer_type learner
--dropout
    dropout_rate dropout_prob drop_rate hidden_dropout hidden_dropout_prob
    attn_dropout attn_dropout_prob attention_dropout embedding_dropout
--log_every
    logging_steps log_steps log_interval log_freq log_frequency logging_interval
    log_every_n_steps print_every print_freq print_steps report_every
--save_every
    save_steps save_interval save_freq save_frequency checkpoint_every
    checkpoint_interval checkpoint_steps ckpt_every save_every_n_steps
--eval_every
    eval_steps eval_interval eval_freq eval_frequency evaluation_steps
    evaluate_every val_every valid_every validate_every validation_steps
    val_interval val_check_interval eval_step test_every
--keep
    save_total_limit save_limit max_to_keep keep_last keep_last_n save_top_k
    keep_checkpoints num_checkpoints
--early_stop
    patience early_stopping early_stopping_patience early_stop_patience
    stopping_step
--seed
    s random_seed random_state manual_seed rng_seed data_seed global_seed init_seed
--tensorboard
    report_to wandb use_wandb tb use_tensorboard tensorboard_dir tensorboard_log
    logger
--checkpoint_dir
    o out out_dir output output_dir output_path outdir save_dir save_path
    save_folder run_dir run_name exp_dir exp_name experiment experiment_name log_dir
    logging_dir logdir workdir work_dir working_dir model_dir checkpoints ckpt_dir
    checkpoints_dir default_root_dir results_dir
--output
    o out out_dir out_file outfile output_dir output_path output_file save_to
    save_path result results predictions
--json
    o out out_file outfile output output_dir output_path output_file save_to
    save_path result results result_file metrics_file report
--load_checkpoint
    checkpoint ckpt ckpt_path checkpoint_path checkpoint_file load load_from
    load_ckpt load_path load_weights init_checkpoint init_weights from_checkpoint
    restore restore_from model_checkpoint warm_start finetune_from
the same command continues the run in its --checkpoint_dir, and --load_checkpoint
starts from the weights of another run
    resume resume_from resume_from_checkpoint resume_path resume_training continue
    continue_from continue_training auto_resume restart
--checkpoint
    c m ckpt ckpt_path checkpoint_path checkpoint_dir checkpoint_file
    load_checkpoint load load_from model model_path model_file model_dir
    model_checkpoint run run_dir run_path weights from_checkpoint restore
    restore_from resume resume_from resume_from_checkpoint pretrained
    pretrained_model saved_model trained_model output_dir
--path
    c m i checkpoint checkpoint_dir checkpoint_path ckpt model run run_dir file input
    folder dir
--dir
    c m i checkpoint checkpoint_dir checkpoint_path ckpt path run run_dir folder
wanted --llama_path for a folder or --llama_size for a size by name
    m model model_name model_path model_id model_name_or_path model_type model_size
    base_model base_model_name pretrained pretrained_model pretrained_path
    pretrained_model_name pretrained_model_name_or_path pretrained_weights hf_model
    hf_path llama llama_model llm backbone weights size arch config_name
--llama_path
    base_model base_model_path pretrained pretrained_model pretrained_path
    pretrained_model_name_or_path model_name_or_path model_name llama llama_dir
    llama_folder hf_path backbone llm
--llama_size
    m model model_name model_size model_type size arch preset llama
--source
    i data dataset dataset_name dataset_path data_path data_file data_name csv
    csv_file csv_path parquet file input input_file input_path in_file inter
    interactions interactions_file ratings ratings_file events events_file logs
    train_file train_data train_path raw_dir raw_path src
--input
    i in infile in_file input_file input_path file source csv data queries gguf model
    checkpoint ckpt path src from llama_path model_path
--data_dir
    d data data_path data_root data_folder dataset dataset_dir dataset_name
    dataset_path datasets input_dir train_data train_file train_path train_dir root
    out out_dir output output_dir output_path outdir save_dir save_path dest
    destination target_dir
--items
    item_file items_file item_path items_path item_data metadata meta movies
    catalog_file titles item_features input file csv
--tokenizer
    tokenizer_path tokenizer_name tokenizer_file tokenizer_dir vocab
--text_llama_path
    text_encoder text_encoder_path sentence_encoder text_model text_model_path
--overwrite
    f force overwrite_output_dir replace exist_ok clobber y yes
wanted another --checkpoint_dir: runs are never overwritten
    f force overwrite overwrite_output_dir exist_ok clobber
--seq_len
    max_seq_length max_seq_len max_length max_len maxlen max_sequence_length
    max_history max_history_len max_item_list_length seq_length seqlen
    sequence_length sequence_len session_max_len context context_length context_size
    block_size cutoff_len model_max_length history_len history_length n_ctx window
    window_size max_tokens
--item_width
    hidden_size hidden_dim hidden_units hidden embed_dim embedding_dim
    embedding_size emb_dim emb_size item_dim item_embedding_dim d_model dim
    latent_dim n_factors factors
--vector_width
    dim embed_dim embedding_dim emb_dim svd_dim n_components dims
wanted --llama_size, --llama_path, or --llama_config for other sizes
    num_layers n_layers n_layer layers num_blocks num_hidden_layers num_heads
    n_heads n_head num_attention_heads intermediate_size ffn_dim
item tables are tied unless --no_tied_items is given
    tie tied tie_embeddings tie_weights tie_word_embeddings tied_embeddings
    share_embeddings
the loss is exact over the whole catalog, without sampled negatives [--learning_rate]
    loss loss_type loss_fn neg_sampling num_negatives n_negatives num_neg
    neg_samples negative_samples num_neg_samples train_neg_sample_args
    negative_sampling temperature label_smoothing
--prompt
    system_prompt instruction prefix prompt_template template
--text
    template text_template prompt_template text_column description
--lora_rank
    lora_r r lora_dim lora_size rank
--lora_alpha
    alpha lora_scale lora_scaling
--lora_targets
    target_modules lora_target_modules lora_modules lora_target lora_layers modules
LoRA has no dropout of its own, and --dropout is for all activations
    lora_dropout
wanted --train lora, whose size is --lora_rank
    lora use_lora peft use_peft qlora adapter_type peft_type enable_lora
--freeze_llama
    freeze freeze_backbone freeze_base freeze_base_model freeze_encoder freeze_llm
    frozen linear_probe
wanted --train all (or --train lora): a pretrained Llama is frozen otherwise
    no_freeze_llama no_freeze unfreeze_llama
wanted --train with heads, lora or all
    full full_finetune finetune fine_tune tune unfreeze train_mode training_mode
    trainable stage finetuning_type strategy
weights are float32 or bfloat16 (--dtype), never quantised, while training
    load_in_8bit load_in_4bit quantization quantize bits bnb_4bit int8
--dtype
    fp16 bf16 fp32 float16 bfloat16 float32 half amp use_amp mixed_precision
    precision torch_dtype data_type compute_dtype param_dtype outtype out_type tf32
--remat
    gradient_checkpointing grad_checkpointing activation_checkpointing
    checkpoint_activations recompute use_remat rematerialize
    use_gradient_checkpointing
--attention
    flash flash_attention flash_attn flash_attention_2 use_flash_attn
    use_flash_attention attn attn_impl attn_implementation attention_type sdpa
--devices
    gpus n_gpu n_gpus num_gpus ngpus num_devices n_devices world_size
--hardware [--devices]
    device gpu gpu_type accelerator machine chip card
--layout
    fsdp ddp dp tp deepspeed tensor_parallel tensor_parallel_size
    tensor_model_parallel_size data_parallel data_parallel_size parallel parallelism
    sharding sharding_strategy mesh mesh_shape distributed
--num_processes
    nproc world_size
--process_id
    global_rank rank
wanted --process_id, the number among all processes of all machines; this one counts
those of a machine
    local_rank
wanted --process_id, the number of the process; this one counts machines, which may
have many processes each
    node_rank machine_rank
wanted --num_processes, of all machines together: that number times the machines
    nproc_per_node
wanted --num_processes, of all machines together: that number times those on each
    nnodes num_nodes num_machines
--coordinator
    master_addr master_address master_port rdzv_endpoint dist_url
    coordinator_address main_process_ip init_method
all devices that JAX finds are used; the environment chooses among them with
JAX_PLATFORMS=cpu or CUDA_VISIBLE_DEVICES=0
    device devices device_id gpu gpus gpu_id gpu_ids n_gpu n_gpus num_gpus ngpus
    cuda use_cuda use_gpu no_cuda cpu use_cpu accelerator cuda_device
    cuda_visible_devices tpu platform backend num_devices
batches are read beside the computation, without a number of workers [--learning_rate]
    num_workers workers n_jobs dataloader_num_workers num_proc
    preprocessing_num_workers nworkers threads num_threads
--cores
    workers n_jobs num_workers threads num_threads cpus nproc
--k
    n topk top_k topn top_n num_recommendations n_recs num_recs limit count
    num_results max_items cutoff
--top
    n k topk top_k top_n limit count num_results
--user
    u uid user_id userid user_ids users customer customer_id member
--history
    item_ids item_id items iids sequence seq session events history_items past
    watched prompt
--keep_seen
    include_seen allow_seen with_seen keep_history repeat no_filter_seen
items of the history are left out unless --keep_seen is given
    filter_seen exclude_seen remove_seen skip_seen filter_history
    filter_already_liked
--split
    eval_split subset phase mode test_split set partition
--split
    val_split valid_split val_size test_size test_ratio train_ratio split_ratio
    split_type split_mode valid_ratio splitting
every metric is printed for K = 1, 5, 10, 20 and 50 [--eval_users]
    metric metrics ks k topk top_k topks cutoffs at_k
--eval_users
    num_users n_users max_users limit num_eval_users sample_users max_eval_samples
    eval_samples
evaluation chooses the size of its batches itself [--eval_users]
    batch_size bs eval_batch_size eval_bs test_batch_size per_device_eval_batch_size
    val_batch_size
--repetitions
    n reps repeat repeats runs num_runs trials iterations iters
--user_column
    u user uid user_id userid user_col usercol user_field user_key user_name
    user_id_col user_id_column user_id_field
--item_column
    item iid item_id itemid item_col itemcol item_field item_key item_id_col
    item_id_column item_id_field id_column id_col
--time_column
    time ts time_col timecol time_field time_key timestamp timestamp_col
    timestamp_column timestamp_field ts_col ts_column date date_column date_col
    datetime datetime_column datetime_col
--rating_column
    rating rating_col rating_field score_column score_col label_column value_column
    weight_column
--title_column
    title title_col title_field name_column name_col
--min_user_interactions
    min_user min_uc min_user_count min_user_inter min_history
    min_interactions_per_user min_seq_len min_interactions k_core kcore core
    min_user_events user_inter_num_interval min_count
--min_item_interactions
    min_item min_sc min_ic min_item_count min_item_inter min_support
    min_interactions_per_item min_item_events item_inter_num_interval
--min_rating
    rating_threshold threshold positive_threshold min_score implicit
    implicit_threshold
--num_clusters
    clusters k n_clusters num_groups nlist
--ids
    item_id item_ids items_ids id item
the header says what separates the columns of a CSV file [--source]
    sep delimiter delim separator field_separator field_sep sep_token header
    has_header seq_separator
CSV files are read as UTF-8 [--source]
    encoding charset file_encoding
the end of a file's name, .csv or .parquet, says its format [--input]
    format file_format output_format file_type input_format
--max_shard_gb
    max_shard_size shard_size max_shard_bytes split_max_size
--estimate_memory_only
    dry_run dryrun dry whatif what_if simulate
--dry_run
    n dryrun dry whatif what_if simulate check noop plan
every setting is a flag, without a file of settings
    config cfg conf config_file config_path config_files yaml params hparams
the token of the Hugging Face hub is read from HF_TOKEN, or from `hf auth login`
[--llama_size]
    hf_token token use_auth_token auth_token access_token hub_token
python -m eqids.train trains, and python -m eqids.evaluate evaluates [--data_dir]
    do_train do_eval do_predict do_test train_only eval_only test_only
progress is a bar on a terminal and plain lines elsewhere
    v verbose verbosity q quiet silent progress no_progress disable_tqdm log_level
    loglevel debug
"""


@dataclass(frozen=True)
class Synonym:
    """An answer to flags that other software has.

    Attributes:
        answer: one of our flags, or a clause that explains.
        names: the other software's flags, without dashes.
        needs: the flags that a command must have for this answer.
    """

    answer: str
    names: frozenset[str]
    needs: frozenset[str]


def _read(table: str) -> tuple[Synonym, ...]:
    """Reads the table: answers, with needed flags in brackets, and indented names."""
    rows: list[tuple[list[str], list[str]]] = []
    for line in table.strip().splitlines():
        if line.startswith(" "):
            rows[-1][1].extend(line.split())
        elif rows and not rows[-1][1]:
            rows[-1][0].append(line)
        else:
            rows.append(([line], []))
    found = []
    for head, names in rows:
        answer, _, needs = " ".join(head).removesuffix("]").partition(" [")
        needed = needs.split() + re.findall(r"--[a-z][a-z0-9_]*", answer)
        found.append(Synonym(answer, frozenset(names), frozenset(needed)))
    return tuple(found)


SYNONYMS = _read(_TABLE)
"""All answers; of several to one name, the first that fits the command is given."""
