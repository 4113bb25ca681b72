//! Requests to block servers and their replies.

use bytes::Bytes;
use corolla_domain::model::{ElementType, Hidden};
use corolla_swarm::wire::{
    frame,
    inference::{
        Descriptor, NextServer, Open, RpcInfo, StepMetadata, args_structure, close_request, forward_pieces,
        forward_request, info_request, parse_hidden, parse_info, step_request,
    },
    msgpack::{EXT_DESCRIPTOR, Value},
    proto::{self, Compression, ExpertInfo, ExpertRequest, ExpertResponse},
    server::block_uids,
    tensor::{self, Dtype},
};

use crate::vectors::{bytes, entries, unhex};

const LIVE: &str = "/live_swarm_petals_2.2.0.post1";
const SESSION: &str = "00000000-0000-4000-8000-000000000001";
const STEP: &str = "00000000-0000-4000-8000-0000000000aa";
const NEXT_STEP: &str = "00000000-0000-4000-8000-0000000000ab";

fn info(serialized_info: Vec<u8>) -> RpcInfo {
    parse_info(proto::encode(&ExpertInfo { serialized_info: serialized_info.into() })).expect("a sound answer")
}

fn first() -> StepMetadata<'static> {
    let open = Open { max_length: 64, ..Open::default() };
    StepMetadata { session_id: SESSION, step_id: STEP, open: Some(open), ..StepMetadata::default() }
}

/// The step of the vectors: two positions of four zeros.
fn zeros() -> Hidden {
    Hidden::new((1, 2, 4), ElementType::Bf16, vec![0; 16].into()).expect("fits")
}

#[test]
fn servers_describe_themselves() {
    assert_eq!(info_request("bloom-560m-petals.0"), bytes("/rpc_info/expert_uid_request"));
    assert!(info_request("").is_empty());
    let brief = parse_info(bytes("/rpc_info/expert_info_response").into()).unwrap();
    assert_eq!(brief, info(bytes("/rpc_info/serialized_info_no_uid")));
    assert_eq!(
        brief,
        RpcInfo {
            version: Some("2.2.0".into()),
            dht_client_mode: Some(false),
            cache_tokens_available: Some(4096),
            ..RpcInfo::default()
        }
    );
    assert_eq!(brief.compression(), Compression::None);

    let full = info(bytes("/rpc_info/serialized_info_full"));
    let of = |size: &[Option<u64>], dtype| Descriptor {
        size: size.to_vec(),
        dtype: Some(dtype),
        compression: Compression::None,
    };
    let hidden = of(&[None, Some(1), Some(2048), Some(1024)], Dtype::Bf16);
    assert_eq!(full.outputs_schema, std::slice::from_ref(&hidden));
    assert_eq!(full.forward_schema, std::slice::from_ref(&hidden));
    assert_eq!(full.inference_schema, [hidden, of(&[None], Dtype::Bf16), of(&[None], Dtype::I64)]);
    assert_eq!((full.dtype(), full.width()), (Some(Dtype::Bf16), Some(1024)));
}

#[test]
fn servers_of_a_live_swarm_describe_themselves() {
    let block = info(bytes(&format!("{LIVE}/rpc_info_block0")));
    assert_eq!((block.dtype(), block.width()), (Some(Dtype::F32), Some(64)));
    assert_eq!(block.version.as_deref(), Some("2.2.0.post1"));
    let brief = info(bytes(&format!("{LIVE}/rpc_info_empty")));
    assert_eq!((brief.cache_tokens_available, brief.inference_schema.len()), (Some(8192), 0));
}

#[test]
fn descriptors_keep_their_bytes() {
    for (name, vector) in entries("/rpc_info").filter(|(name, _)| !name.starts_with("expert_")) {
        let packed = vector.as_str().and_then(unhex).expect("hex");
        assert_eq!(Value::decode(&packed).unwrap().encode(), packed, "{name}");
    }
    let Value::Ext(EXT_DESCRIPTOR, payload) = Value::decode(&bytes("/rpc_info/descriptor_1_2048_1024_bf16")).unwrap()
    else {
        panic!("a descriptor")
    };
    assert_eq!(payload, bytes("/rpc_info/descriptor_payload"));
}

#[test]
fn a_description_of_the_wrong_types_is_refused() {
    for (key, value) in [
        ("version", Value::Int(2)),
        ("dht_client_mode", Value::Int(0)),
        ("cache_tokens_available", Value::Float(1.0)),
        ("cache_tokens_available", Value::Int(-1)),
        ("inference_schema", Value::Tuple(vec![Value::Tuple(vec![Value::Int(1)])])),
        ("inference_schema", Value::Tuple(Vec::new())),
        ("outputs_schema", Value::Ext(EXT_DESCRIPTOR, Bytes::new())),
    ] {
        let reply = ExpertInfo { serialized_info: Value::map([(key, value)]).encode().into() };
        assert!(parse_info(proto::encode(&reply)).is_err(), "{key}");
    }
}

#[test]
fn metadata_is_written_byte_for_byte() {
    assert_eq!(first().encode(), bytes("/inference/first_metadata_2_2_0"));
    let head = StepMetadata { start_from_position: Some(0), ..first() };
    assert_eq!(head.encode(), bytes("/inference/first_metadata_head"));

    let next = [NextServer {
        peer: "12D3KooWNext".into(),
        session_id: "00000000-0000-4000-8000-000000000002".into(),
        start: 4,
        end: 8,
    }];
    let later = StepMetadata { step_id: NEXT_STEP, open: None, next_servers: Some(&next), ..first() };
    assert_eq!(later.encode(), bytes("/inference/step_metadata_2_2_0_with_next_servers"));
    let pushed = StepMetadata { session_id: &next[0].session_id, next_servers: Some(&[]), pushed: true, ..later };
    assert_eq!(pushed.encode(), bytes("/inference/push_metadata"));

    assert_eq!(args_structure(3).encode(), bytes("/inference/args_structure"));
    assert_eq!(args_structure(3).encode(), bytes("/forward_backward/backward_args_structure"));
    assert_eq!(args_structure(2).encode(), bytes("/forward_backward/forward_args_structure"));
}

#[test]
fn the_first_step_is_written_byte_for_byte() {
    let uids = block_uids("bloom-560m-petals", 0..2);
    let hidden = tensor::encode(&zeros(), Compression::None).unwrap();
    let request = proto::encode(&step_request(&uids, hidden, None, first().encode()));
    assert_eq!(request, bytes("/inference/first_request_protobuf"));
    assert_eq!(frame::encode_stream_message(&request), bytes("/inference/first_request_stream_frame"));
    assert_eq!(frame::encode_stream_message(&close_request()), bytes("/inference/close_request_stream_frame"));
}

#[test]
fn the_reply_has_the_shape_that_was_sent() {
    let reply = Bytes::from(bytes("/inference/response_protobuf"));
    assert_eq!(parse_hidden(reply.clone(), &zeros()).unwrap(), zeros());
    let longer = Hidden::new((1, 4, 4), ElementType::Bf16, vec![0; 32].into()).unwrap();
    assert!(parse_hidden(reply, &longer).is_err());

    let tensor = tensor::encode(&zeros(), Compression::None).unwrap();
    let answer = |tensors| proto::encode(&ExpertResponse { tensors, ..ExpertResponse::default() });
    assert!(parse_hidden(answer(vec![]), &zeros()).is_err());
    assert!(parse_hidden(answer(vec![tensor.clone(); 2]), &zeros()).is_err());
    let not_a_number = proto::Tensor { buffer: vec![0xff; 16].into(), ..tensor.clone() };
    assert!(parse_hidden(answer(vec![not_a_number]), &zeros()).is_err());
    let whole_numbers = proto::Tensor { buffer: vec![0; 64].into(), dtype: "int64".into(), ..tensor };
    assert!(parse_hidden(answer(vec![whole_numbers]), &zeros()).is_err());
}

#[test]
fn forward_is_asked_whole_or_in_pieces() {
    let hidden = tensor::encode(&zeros(), Compression::None).unwrap();
    let request = forward_request("p.0 p.1", hidden.clone(), None);
    assert_eq!(request.metadata, bytes("/forward_backward/forward_metadata"));
    let parts =
        crate::vectors::json("/split_for_streaming_16").get("parts").and_then(|p| p.as_array()).expect("a list");
    let counted: Vec<f32> = (0..10).map(|n| n as f32).collect();
    let counted = tensor::encode(&Hidden::from_f32((1, 1, 10), &counted).unwrap(), Compression::None).unwrap();
    let flat = proto::Tensor { size: vec![10], ..counted };
    let sent: Vec<_> = forward_pieces(&forward_request("p.0", flat, None), 16)
        .iter()
        .flat_map(|message| message.tensors.iter().map(|piece| proto::encode(piece).to_vec()))
        .collect();
    let parts = parts.iter().map(|part| part.as_str().and_then(unhex).expect("hex"));
    assert_eq!(sent, parts.chain([bytes("/split_for_streaming_empty/0")]).collect::<Vec<_>>());

    let pieces = forward_pieces(&request, 10);
    assert_eq!(pieces.iter().map(|p| p.tensors[0].buffer.len()).collect::<Vec<_>>(), [10, 6, 0]);
    assert!(pieces.iter().all(|p| (&p.uid, &p.metadata) == (&request.uid, &request.metadata)));
    let mut joiner = tensor::Joiner::new(2, 16);
    for piece in pieces {
        let piece: ExpertRequest = proto::decode(proto::encode(&piece)).unwrap();
        piece.tensors.into_iter().for_each(|t| joiner.push(t).unwrap());
    }
    assert_eq!(joiner.finish(), request.tensors);
}
