"""Linear bodies and hands: skeleton tables, skinning, the free default body, published joint sets."""
