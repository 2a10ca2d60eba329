"""Systems of any making: answers from files, from an endpoint, from a generator without documents."""
