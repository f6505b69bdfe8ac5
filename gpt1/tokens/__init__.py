"""What a tokenizer is made of: text → standardised chunks → words → merged pieces."""
