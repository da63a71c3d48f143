"""NSM's rules written once more, in Rego: an independent opinion on what the built-in ones say."""

RULES = {
    "common/tokens_valid": """
        package opinion
        import rego.v1
        default valid := false
        unreadable contains place if {
            some place, segment in input.path_segments
            not io.jwt.decode(segment.token)
        }
        valid if {
            is_array(input.path_segments)
            count(unreadable) == 0
        }
    """,
    "common/tokens_expired": """
        package opinion
        import rego.v1
        default valid := false
        lasting contains place if {
            some place, segment in input.path_segments
            [_, claims, _] := io.jwt.decode(segment.token)
            claims.exp * 1000000000 > time.now_ns()
        }
        valid if count(lasting) == count(input.path_segments)
    """,
    "common/tokens_chained": """
        package opinion
        import rego.v1
        default valid := false
        segments := input.path_segments
        said(place) := claims if [_, claims, _] := io.jwt.decode(segments[place].token)
        meant(place) := answer if {
            some audience in said(place).aud
            answer := audience == said(place + 1).sub
        }
        broken contains place if {
            some place in numbers.range(0, count(segments) - 2)
            not meant(place)
        }
        valid if count(segments) < 2
        valid if {
            count(segments) > 1
            count(broken) == 0
        }
    """,
    "server/prev_token_signed": """
        package opinion
        import rego.v1
        default valid := false
        valid if {
            input.index > 0
            io.jwt.verify_es256(input.path_segments[input.index - 1].token, input.auth_info.certificate)
        }
    """,
    "client/next_token_signed": """
        package opinion
        import rego.v1
        default valid := false
        following := object.get(input, "index", 0) + 1
        valid if io.jwt.verify_es256(input.path_segments[following].token, input.auth_info.certificate)
    """,
    "registry/client_allowed": """
        package opinion
        import rego.v1
        default valid := false
        valid if not input.resource_name in object.keys(input.resource_path_ids_map)
        valid if input.resource_path_ids_map[input.resource_name][0] == input.resource_id
    """,
    "monitor/service_connection": """
        package opinion
        import rego.v1
        default valid := false
        valid if {
            some id in input.selector_connection_ids
            id in input.spiffe_id_connection_map[input.service_spiffe_id]
        }
    """,
}
"""By the names of the built-in rules."""
