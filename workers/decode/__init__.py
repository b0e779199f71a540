"""Which pictures to decode, and when they are shown. The only home of PyAV."""
